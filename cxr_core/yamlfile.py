"""YAML files of the user's: plain values, no key twice, and the line where a key stands, for messages.

ruamel.yaml reads `on`, `010` and `12:30:00` as other values, so that old runs would have other configs; it takes
longer, and bounds no aliases either.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cxr_core.errors import UserError
from cxr_core.runs.door import printable, read_bytes

MOST_BYTES = 1 << 19
"""Of a file; reading it takes seconds."""
MOST_VALUES = 100_000
"""Of a file, with what its aliases stand for."""
_DEEPEST = 60


class _UniqueKeys(yaml.SafeLoader):
    """YAML's plain values; a key that stands twice in a mapping is an error, not the last one wins."""

    as_text: frozenset[str] = frozenset()
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refused while it is read, since reading what is deeply nested takes ever longer."""
        self.depth += 1
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} values within one another", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        for key, value in node.value:
            if key.value in self.as_text and value.tag in _NUMBERS:
                value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def _values_of(node: yaml.Node | None, known: dict[int, int], depth: int) -> int:
    """How many values a node has, an alias counting as all that it stands for: a few lines may stand for more than
    any memory holds. Raises YAMLError where they are too many, too deep, or within themselves."""
    if known.get(id(node)) == 0:
        raise yaml.MarkedYAMLError(problem="an alias of what it stands in", problem_mark=_mark(node))
    if depth > _DEEPEST:
        raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} values within one another", problem_mark=_mark(node))
    if id(node) not in known:
        known[id(node)] = 0
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in below for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_values_of(part, known, depth + 1) for part in parts)
    if known[id(node)] > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values", problem_mark=_mark(node))
    return known[id(node)]


def _mark(node: yaml.Node | None) -> yaml.Mark | None:
    return node.start_mark if node else None


def printable_lines(text: str) -> str:
    """A message of a library, which may hold a part of the file, as text that steers no terminal."""
    return "\n".join(map(printable, text.splitlines()))


_NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError if it cannot be read, or is over `MOST_BYTES`."""
    try:
        return read_bytes(path, limit=MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error


def parse_mapping(text: str, path: Path, *, hint: str, as_text: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The mapping that `text` holds. A number under one of the keys `as_text`, at any depth, is the text that stands
    there. Raises UserError, with `hint`, if it is another thing."""
    try:
        loader = type("_Loader", (_UniqueKeys,), {"as_text": as_text})(text)
        node = loader.get_single_node()
        _values_of(node, {}, 0)
        value = loader.construct_document(node) if node else None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"not YAML: {printable_lines(str(error))}", where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError("not a mapping of keys", where=str(path), hint=hint)
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
