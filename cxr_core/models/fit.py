"""What keeps weights from being exactly those of a model, by name and shape: without torch."""

from collections.abc import Iterator, Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]

_MOST_NAMED = 40


def differences(wanted: Shapes, given: Shapes) -> Iterator[str]:
    """A line a kind of difference, with the names; none where each tensor is there once, and no other."""
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing:
        yield f"{len(missing)} are missing: {_listed(missing)}"
    if unknown:
        yield f"{len(unknown)} are of something else: {_listed(unknown)}"
    other = [name for name in sorted(wanted.keys() & given.keys()) if wanted[name] != given[name]]
    yield from (f"{name} is {given[name]}, not {wanted[name]}" for name in other[:_MOST_NAMED])
    if len(other) > _MOST_NAMED:
        yield f"{len(other) - _MOST_NAMED} more are of another shape"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
