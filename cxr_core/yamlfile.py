"""YAML files of the user's: plain values, no key twice, and the line where a key stands, for messages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cxr_core.errors import UserError


class _UniqueKeys(yaml.SafeLoader):
    """YAML's plain values; a key that stands twice in a mapping is an error, not the last one wins."""

    as_text: frozenset[str] = frozenset()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in node.value if keys.count(key[0].value) > 1]
        if twice:
            mark = twice[-1][0].start_mark
            raise yaml.MarkedYAMLError(problem=f"key {twice[-1][0].value!r} stands twice", problem_mark=mark)
        for key, value in node.value:
            if key.value in self.as_text and value.tag in _NUMBERS:
                value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error


def parse_mapping(text: str, path: Path, *, mend: str, as_text: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The mapping that `text` holds. A number under one of the keys `as_text`, at any depth, is the text that stands
    there. Raises UserError, with `mend`, if it is another thing."""
    try:
        value = yaml.load(text, type("_Loader", (_UniqueKeys,), {"as_text": as_text}))
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError("not a mapping of keys", where=str(path), mend=mend)
    return value


def line_of(node: yaml.Node | None, keys: Sequence[str | int]) -> int:
    """The line where the value of `keys` stands, or where the nearest thing above it starts."""
    line = 1
    for key in keys:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = (node.value[key], node.value[key])
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
