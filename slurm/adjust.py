"""What is asked for otherwise than the profile says, because of how attempts ended: more memory, more time, other
nodes. Why, `cxr_core.runs.follow_up` decides; here it becomes values that Slurm reads."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxr_core.runs.causes import Change
from cxr_core.runs.follow_up import Short
from slurm.grammar import hours_of, megabytes_of, minutes_of, time_of, twice_memory
from slurm.profile import Resources


@dataclass(frozen=True)
class Adjusted:
    """`values` replace those of the profile (`mem`, `time`); `reasons` say why, or what the profile does not allow."""

    values: Mapping[str, str] = field(default_factory=dict)
    reasons: Sequence[str] = ()


_RAN_OUT: Mapping[Change, str] = {"mem": "was out of memory", "time": "took longer than the time limit"}


def adjusted(resources: Resources, short: Short, before: Mapping[str, str]) -> Adjusted:
    """Twice the memory or time where one was short: once, and no more than `max_mem` and `max_time`.

    What was raised `before` stays, unless the profile asks for more since then, or allows less: it is right, and
    anybody may have written the record.
    """
    values = {str(key): before[key] for key in _RAN_OUT if key in before and _is_allowed(key, before[key], resources)}
    reasons = [f"{key} stays {value}, as raised before" for key, value in values.items()]
    for key, ran_out in _RAN_OUT.items():
        if (victims := short.get(key, ())) and key not in before:
            value, reason = _doubled(key, resources)
            values |= {key: value} if value else {}
            reasons.append(f"{victims[0]} {ran_out}: {reason}")
    return Adjusted(values, reasons)


def _doubled(key: str, resources: Resources) -> tuple[str | None, str]:
    """Twice the value of `mem` or `time`, as far as allowed; None where it is not. And what to say of it."""
    now, most = getattr(resources, key), getattr(resources, f"max_{key}")
    if now is None or most is None:
        return None, f"set {key} and max_{key} in the profile to let resume ask for more"
    value, grows = _twice_mem(now, most) if key == "mem" else _twice_time(now, most)
    if not grows:
        return None, f"{key} is {now} already, and max_{key} allows no more"
    return value, f"{key} raised from {now} to {value}"


def _is_allowed(key: str, value: str, resources: Resources) -> bool:
    """Whether it is more than the profile asks for, and no more than it allows."""
    size = _size if key == "mem" else hours_of
    now, most = getattr(resources, key), getattr(resources, f"max_{key}")
    try:
        return most is not None and (now is None or size(value) > size(now)) and size(value) <= size(most)
    except ValueError:
        return False


def _twice_mem(now: str, most: str) -> tuple[str, bool]:
    """The lesser of twice `now` and `most`, and whether that is more than `now`."""
    value = min(twice_memory(now), most, key=_size)
    return value, _size(value) > _size(now)


def _size(memory: str) -> float:
    """In MB; all memory of a node is more than any other."""
    return megabytes_of(memory) or math.inf


def _twice_time(now: str, most: str) -> tuple[str, bool]:
    before, limit = (minutes_of(each) or 0 for each in (now, most))
    minutes = min(2 * before, limit)
    return time_of(minutes), minutes > before


def excluding(resources: Resources, nodes: Iterable[str]) -> str:
    """The value of `exclude` that leaves out `nodes` too."""
    return ",".join(filter(None, (resources.exclude, *sorted(nodes))))
