"""What is asked for otherwise than the profile says, by how attempts ended: more memory, more time, other nodes."""

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cxr_core.runs.accounting import Accounting
from cxr_core.runs.ends import NODE_FAILURE, OUT_OF_MEMORY, TIME_LIMIT, shell_ends
from cxr_core.runs.failures import Failure, failures_in
from cxr_core.runs.ledger import AttemptRecord
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from slurm.grammar import hours_of, megabytes_of, minutes_of, time_of, twice_memory
from slurm.profile import Resources

_BAD_FOR = 24 * 3600.0
"""Seconds after which a node that failed is trusted again."""

_BROKEN = re.compile(r"read-only file system|stale file handle|input/output error|CUDA error", re.IGNORECASE)
"""Words of an attempt that the next one on the same node would say too."""


@dataclass(frozen=True)
class Changes:
    """`values` replace those of the profile (`mem`, `time`); `reasons` say why, or what the profile does not allow."""

    values: Mapping[str, str] = field(default_factory=dict)
    reasons: Sequence[str] = ()


def raised(folder: StageFolder, resources: Resources, attempts: Sequence[AttemptRecord], done: set[str]) -> Changes:
    """Twice the memory or time for a stage of whose missing shards one was out of it: once, and no more than
    `max_mem` and `max_time`. What was raised before stays."""
    tasks = _tasks(folder, computes=True) - {attempt.job for attempt in attempts}
    victims = {}
    for key, cause in _CAUSES.items():
        victims[key] = [f"shard {shard}" for shard in sorted(_shards_out_of(cause, attempts) - done)]
        victims[key] += [f"task {task}" for task in _out_of(cause, folder, tasks)]
    return _raised(folder, resources, victims, computes=True)


def raised_for_control(folder: StageFolder, resources: Resources) -> Changes:
    """The same for the jobs that freeze and finalize a stage."""
    tasks = _tasks(folder, computes=False)
    victims = {key: [f"job {task}" for task in _out_of(cause, folder, tasks)] for key, cause in _CAUSES.items()}
    return _raised(folder, resources, victims, computes=False)


_CAUSES = {"mem": OUT_OF_MEMORY, "time": TIME_LIMIT}


def _raised(
    folder: StageFolder, resources: Resources, victims: Mapping[str, Sequence[str]], *, computes: bool
) -> Changes:
    before: dict[str, str] = {}
    for submit in (Submit.read(path) for path in submit_folders(folder.path)):
        if submit.computes == computes:
            before |= {key: value for key, value in submit.raised.items() if key in _CAUSES}
    # A profile that asks for more since then, or allows less, is right; and anybody may have written the record.
    values = {key: value for key, value in before.items() if _is_allowed(key, value, resources)}
    reasons = [f"{key} stays {value}, as raised before" for key, value in values.items()]
    for key in _CAUSES:
        if victims[key] and key not in before:
            value, reason = _doubled(key, resources)
            values |= {key: value} if value else {}
            reasons.append(f"{victims[key][0]} {_ENDED[key]}: {reason}")
    return Changes(values, [f"{folder.name}: {reason}" for reason in reasons])


_ENDED = {"mem": "was out of memory", "time": "took longer than the time limit"}


def _shards_out_of(cause: str, attempts: Iterable[AttemptRecord]) -> set[str]:
    """Shards in which an attempt was killed for a cause, or which it reported to have failed of it."""
    killed = {a.shard for a in attempts if a.shard and a.why == cause and (cause != TIME_LIMIT or not a.num_shards)}
    return killed | {failure.shard for failure in _failures(attempts) if failure.cause == cause and _is_host(failure)}


def _tasks(folder: StageFolder, *, computes: bool) -> set[str]:
    """Tasks of a stage that began, of its jobs that compute or of the others."""
    wanted = [path for path in submit_folders(folder.path) if Submit.read(path).computes == computes]
    return {log.name.removesuffix(".out") for path in wanted for log in path.glob("*.out")}


def _out_of(cause: str, folder: StageFolder, tasks: set[str]) -> list[str]:
    """Those of `tasks` that were killed for a cause: a process may be too large from its start."""
    lives = [(life.job, life.why) for life in Accounting.read(folder.path.parent).lives]
    killed = [(job, end.why) for (job, _), end in shell_ends(folder.path).items()]
    return sorted({job for job, why in (*killed, *lives) if why == cause} & tasks)


def _failures(attempts: Iterable[AttemptRecord]) -> Iterator[Failure]:
    for attempt in attempts:
        if attempt.num_failed:
            yield from failures_in(attempt.folder)


def _is_host(failure: Failure) -> bool:
    """The memory of a GPU cannot be asked for."""
    return not re.search("CUDA|GPU", failure.text)


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


def bad_nodes(attempts: Sequence[AttemptRecord]) -> dict[str, str]:
    """Node -> what happened there, the latest last: it died under an attempt, or an attempt found it broken, in the
    last day, and none that began later has finished there."""
    found: dict[str, str] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.ended):
        broken = _BROKEN.search(f"{attempt.cause} {attempt.detail}")
        is_bad = attempt.node and (attempt.why == NODE_FAILURE or broken)
        if is_bad and time.time() - attempt.ended < _BAD_FOR and not _is_well_since(attempt, attempts):
            found[attempt.node] = broken.group(0) if broken else NODE_FAILURE
    return found


def _is_well_since(bad: AttemptRecord, attempts: Sequence[AttemptRecord]) -> bool:
    # A node may die long after it was last heard of: for certain only before its task began again elsewhere.
    again = [a.started for a in attempts if bad.why and a.job == bad.job and a.started > bad.started]
    dead = min(again, default=bad.ended)
    return any(a.node == bad.node and a.cause == "finished" and a.started > dead for a in attempts)


def excluding(resources: Resources, nodes: Iterable[str]) -> str:
    """The value of `exclude` that leaves out `nodes` too."""
    return ",".join(filter(None, (resources.exclude, *sorted(nodes))))
