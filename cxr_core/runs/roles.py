"""The `inputs` of a stage: what stands in a role, and where a role holds several, the place of each.

A role ("dataset", "model" ...) holds one input or a list of them. Plans and Datasets record each by the name of its
place: the role for the first, `<role>.1` for the second. Nothing but this module reads these names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def place(role: str, number: int) -> str:
    """The name of a place in a role: 0 is the first."""
    return f"{role}.{number}" if number else role


def role_of(name: str) -> str:
    """The role that a place is in."""
    return name.partition(".")[0]


def by_place(inputs: Mapping[str, T | Sequence[T]]) -> dict[str, T]:
    """Each input by its place; `inputs` has one, or a list, for each role."""
    lists: dict[str, Sequence[Any]] = {
        role: given if isinstance(given, list | tuple) else [given] for role, given in inputs.items()
    }
    return {place(role, i): one for role, given in lists.items() for i, one in enumerate(given)}


def places_in(inputs: Iterable[str], *roles: str) -> list[str]:
    """The places of some roles, in the order of `inputs`."""
    return [name for name in inputs if role_of(name) in roles]


def in_roles(inputs: Mapping[str, T], *roles: str) -> list[T]:
    """What stands in some roles, as a list in the order of `inputs`, which has each by its place."""
    return [inputs[name] for name in places_in(inputs, *roles)]
