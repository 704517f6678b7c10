"""docs/reference/config.md and metrics.md, from the classes that read and write these files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from docs.tools.markdown import NOTE, anchor, cell, code, linked, paragraph, table

Schema = Mapping[str, Any]

UNITS = {
    "seconds": "s",
    "minutes": "min",
    "hours": "h",
    "days": "days",
    "steps": "steps",
    "epochs": "epochs",
    "images": "images",
    "patients": "patients",
    "gib": "GiB",
    "mib": "MiB",
    "bytes": "bytes",
}
"""Last word of a key -> the unit of its number."""


def config_page() -> str:
    """Every key of a config: type, default, unit, meaning; by kind of stage."""
    from jobs.config import RunConfig

    schema = RunConfig.model_json_schema()
    stages = [each["$ref"].rpartition("/")[2] for each in schema["properties"]["stages"]["items"]["oneOf"]]
    lines = [
        NOTE,
        "",
        "# Config",
        "",
        "```sh",
        "cxr config show demo       # a config with every default written out",
        "cxr config schema          # all of this as a JSON schema, for an editor",
        "cxr run demo stages.diffusion.steps=200   # change one key",
        "```",
        "",
        "A config is one YAML file. Unknown keys, wrong types and stages that do not fit together are listed",
        "all at once, with file, line and key.",
        "",
        'A key without a default must be given. "Absent" says what an older run without the key did,',
        '"formerly" how an older run calls it; your config uses the new name.',
        "",
        *table(("stage", "does"), ((_link(schema, name), _meaning(schema, {"$ref": name})) for name in stages)),
        "",
        "## The whole config",
        "",
        *_rows(schema, schema),
    ]
    return "\n".join(lines + _sections(schema)) + "\n"


def metrics_page() -> str:
    """Every field of metrics.json."""
    from cxr_core.evaluation.metrics import Metrics

    schema = Metrics.model_json_schema(mode="serialization")
    lines = [
        NOTE,
        "",
        "# Metrics",
        "",
        "```sh",
        "cxr run demo                        # writes runs/demo/study/metrics.json and the report",
        "cxr config schema --metrics         # all of this as a JSON schema",
        "```",
        "",
        "An evaluate stage writes `metrics.json`: what the report shows, for programs. Where a number could not",
        "be had, its place holds null, and a field beside it says why. Accuracy and AUROC lie in 0 to 1.",
        "",
        "## The whole file",
        "",
        *_rows(schema, schema),
    ]
    return "\n".join(lines + _sections(schema)) + "\n"


def _kind(schema: Schema, name: str) -> str | None:
    """`generate`, or `train: vae`, of a stage's settings; None of a class that is no stage's."""
    properties = schema["$defs"][name]["properties"]
    if not {"kind", "name", "inputs"} <= set(properties):
        return None
    kind, model = properties["kind"]["const"], properties.get("model", {}).get("const")
    return f"{kind}: {model}" if model else str(kind)


def _heading(schema: Schema, name: str) -> str:
    kind = _kind(schema, name)
    room, _, plain = name.removeprefix("cxr_core__").rpartition("__")  # pydantic's long name of one that occurs twice
    return f"Stage {kind}" if kind else f"{plain} of {room.partition('__')[0]}" if room else plain


def _link(schema: Schema, name: str) -> str:
    heading = _heading(schema, name)
    return f"[{heading}](#{anchor(heading)})"


def _sections(schema: Schema) -> list[str]:
    """A section a class, each followed by those that it names and that had none yet."""
    lines: list[str] = []
    for name in _met(schema, _named(schema["properties"]), {}):
        found = schema["$defs"][name]
        level = "##" if _kind(schema, name) else "###"
        lines += ["", f"{level} {_heading(schema, name)}", ""]
        if "description" in found:
            lines += [*paragraph(found["description"]), ""]
        lines += _rows(schema, found)
    return lines


def _met(schema: Schema, names: Iterable[str], met: dict[str, None]) -> list[str]:
    for name in names:
        if name not in met and "properties" in schema["$defs"][name]:
            met[name] = None
            _met(schema, _named(schema["$defs"][name]), met)
    return list(met)


def _named(part: Any) -> Iterator[str]:
    """Classes that a part of a schema names, in its order."""
    if isinstance(part, Mapping):
        if "$ref" in part:
            yield part["$ref"].rpartition("/")[2]
        for value in part.values():
            yield from _named(value)
    elif isinstance(part, list):
        for value in part:
            yield from _named(value)


def _rows(schema: Schema, found: Schema) -> list[str]:
    rows = [[cells[column] for column in _columns(schema)] for cells in _cells(schema, found)]
    return table(_columns(schema), rows)


def _columns(schema: Schema) -> tuple[str, ...]:
    """What is told of a key: a file that people read but do not write needs no defaults."""
    written = schema["title"] == "Metrics"
    return ("key", "type", "unit", "meaning") if written else ("key", "type", "default", "unit", "meaning")


def _cells(schema: Schema, found: Schema) -> Iterator[dict[str, str]]:
    required = set(found.get("required", ()))
    for key, value in found["properties"].items():
        yield {
            "key": code(key),
            "type": _type(schema, value),
            "default": "" if key in required else _default(value),
            "unit": _unit(key, value),
            "meaning": _meaning(schema, value) + _formerly(value) + _absent(value),
        }


def _type(schema: Schema, value: Schema) -> str:
    """The type of a value in words, with links to classes and with its bounds."""
    if "$ref" in value:
        return _link(schema, value["$ref"].rpartition("/")[2])
    if "const" in value:
        return code(json.dumps(value["const"]))
    if "enum" in value:
        return " or ".join(code(json.dumps(each)) for each in value["enum"])
    for key in ("anyOf", "oneOf"):
        if key in value:
            return " or ".join(dict.fromkeys(_type(schema, each) for each in value[key]))
    return _plain(schema, value)


def _plain(schema: Schema, value: Schema) -> str:
    kind = str(value.get("type", "any"))
    if kind == "array":
        parts = [value["items"]] if "items" in value else value.get("prefixItems", [])
        return "list of " + (", ".join(dict.fromkeys(_type(schema, each) for each in parts)) or "anything")
    if kind == "object" and isinstance(value.get("additionalProperties"), Mapping):
        return "mapping to " + _type(schema, value["additionalProperties"])
    return _WORDS.get(kind, kind) + _bounds(value)


_WORDS = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping"}
"""Types as JSON names them -> as people do."""
_NO_BOUND = 1e9
"""What is only to keep a number within what a file can hold."""


def _bounds(value: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value and abs(value[key]) < _NO_BOUND]
    return f" ({', '.join(found)})" if found else ""


def _meaning(schema: Schema, value: Schema) -> str:
    """The docstring of a key, else that of the class that it holds."""
    named = schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
    return linked(cell(value.get("description", "") or named.get("description", "")))


def _default(value: Schema) -> str:
    if "$ref" in value and isinstance(value.get("default"), Mapping):
        return "its defaults"
    return code(json.dumps(value["default"], ensure_ascii=False)) if "default" in value else ""


def _unit(key: str, value: Schema) -> str:
    numbers = {"integer", "number"}
    kinds = {each.get("type") for each in (value, *value.get("anyOf", ()))}
    return UNITS.get(key.rpartition("_")[2], "") if kinds & numbers else ""


def _formerly(value: Schema) -> str:
    return f" Formerly {code(value['formerly'])}." if "formerly" in value else ""


def _absent(value: Schema) -> str:
    if "absent" not in value:
        return ""
    return f" Absent from an older run: {code(json.dumps(value['absent']))}."


def record_rows(schema: Schema) -> list[str]:
    """Key and type of each field of a record; of records in it, theirs."""
    rows = []
    for key, value in schema["properties"].items():
        rows.append((code(key), _type(schema, value) if not _inner(schema, value) else _inner_kind(value)))
        rows += [(code(f"{key}.{one}"), _type(schema, each)) for one, each in _inner(schema, value).items()]
    return table(("field", "type"), rows)


def _inner(schema: Schema, value: Schema) -> dict[str, Any]:
    """Fields of the record that a field is, or is a list of."""
    names = list(_named(value))
    return dict(schema["$defs"][names[0]].get("properties", {})) if names else {}


def _inner_kind(value: Schema) -> str:
    return "list of records" if value.get("type") == "array" else "record"
