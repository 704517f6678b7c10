"""metrics.json as a tidy table: a row a number, whatever metrics there are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_core.evaluation.metrics import Metrics

COLUMNS = ("metric", "name", "value", "low", "high")

_NOT_MEASURED = ("format", "real", "synthetic", "grids", "published", "published_source", "published_caveat")
_NAMED_BY = ("finding", "arm", "by", "group", "view", "within", "seed")
"""Keys that tell the entries of a list apart."""


def scores_of(metrics: "Metrics") -> list[dict[str, Any]]:
    """The numbers that were measured: those with an interval, and other real numbers. Counts and settings that are
    whole numbers are not among them.

    `name` leads to the number: keys and, of lists, what tells their entries apart, with `/` between them.
    """
    parts = metrics.model_dump(mode="json", exclude=set(_NOT_MEASURED))
    return [{"metric": metric, **row} for metric, part in parts.items() for row in _numbers(part, ())]


def _numbers(value: Any, way: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and {"value", "low", "high"} == set(value):
        yield {"name": "/".join(way), **value}
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(each, (*way, key))
    elif isinstance(value, list):
        for name, each in _entries(value):
            yield from _numbers(each, (*way, name))
    elif isinstance(value, float):
        yield {"name": "/".join(way), "value": value}


def _entries(values: list[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list by what tells them apart, or by their number where that does not."""
    names = [_name_of(each) for each in values]
    is_unique = len(set(names)) == len(names) and all(names)
    for number, (name, each) in enumerate(zip(names, values, strict=True)):
        yield name if is_unique else f"{name} {number}".strip(), each


def _name_of(value: Any) -> str:
    named = value if isinstance(value, dict) else {}
    return " ".join(str(named[key]) for key in _NAMED_BY if named.get(key) is not None)
