"""What follows from how attempts ended: shards to park, more memory or time to ask for, nodes to leave out, tasks to
send again or not. A function of what is recorded and of the time alone: it reads and writes nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cxr_core.runs.causes import NODE_FAILURE, OWN_WORDS, REFUSED_STATUS, Change, broken_node, cause_named
from cxr_core.runs.evidence import ShellEnd
from cxr_core.runs.facts import StageFacts, blamed_shard
from cxr_core.runs.failures import Failure, Parking, parking_of
from cxr_core.runs.ledger import AttemptRecord
from cxr_core.runs.unstarted import Unstarted

_BAD_FOR = 24 * 3600.0
"""Seconds after which a node that failed is trusted again."""

Short = Mapping[Change, Sequence[str]]
"""What ran out ("mem", "time") -> for whom: "shard 00003", "task 7_1"."""


@dataclass(frozen=True)
class StageFollowUp:
    """Of one stage: shards to `park`; what was `short` for its shards and, as `control_short`, for the jobs that freeze
    and finalize; tasks without an attempt, which may be sent again or `would_recur`."""

    facts: StageFacts
    park: Sequence[Parking] = ()
    short: Short = field(default_factory=dict)
    control_short: Short = field(default_factory=dict)
    would_recur: Sequence[Unstarted] = ()


@dataclass(frozen=True)
class FollowUp:
    """Of a run. `bad_nodes`: node -> what happened there, the latest last."""

    stages: Mapping[str, StageFollowUp]
    bad_nodes: Mapping[str, str]

    @property
    def attempts(self) -> list[AttemptRecord]:
        """Those of all stages."""
        return [attempt for stage in self.stages.values() for attempt in stage.facts.attempts]


def follow_up(run: Sequence[StageFacts], now: float) -> FollowUp:
    """What follows from all that is recorded of the stages of a run; `now` in seconds since 1970."""
    attempts = [attempt for stage in run for attempt in stage.attempts]
    return FollowUp({stage.name: _of_stage(stage) for stage in run}, bad_nodes(attempts, now))


def _of_stage(stage: StageFacts) -> StageFollowUp:
    return StageFollowUp(
        facts=stage,
        park=_to_park(stage),
        short={change: _shards_short(change, stage) + _tasks_short(change, stage) for change in _ASKED_FOR},
        control_short={change: _control_short(change, stage) for change in _ASKED_FOR},
        would_recur=would_recur(stage.unstarted, stage.attempts),
    )


_ASKED_FOR: tuple[Change, ...] = ("mem", "time")


def _to_park(stage: StageFacts) -> list[Parking]:
    """Shards in whose middle attempts were ended, time and again: what ends them may be the shard. Those that only
    failed were parked by the attempt that met them."""
    ended: dict[str, list[Failure]] = {}
    for attempt in stage.attempts:
        if shard := blamed_shard(attempt):
            ended.setdefault(shard, []).append(_as_failure(attempt))
    found = []
    for shard, ends in ended.items():
        if shard not in stage.parked and shard not in stage.done:
            failures = sorted((f for f in stage.failures if f.shard == shard), key=lambda failure: failure.time)
            found.append(parking_of([*failures, *ends], stage.forgiven.get(shard, ())))
    return [parking for parking in found if parking is not None]


def _as_failure(attempt: AttemptRecord) -> Failure:
    text = f"the attempt on {attempt.place} was killed in the middle of it: {attempt.cause}"
    moment = datetime.fromtimestamp(attempt.ended, UTC).isoformat(timespec="milliseconds")
    return Failure(attempt.shard, attempt.id, attempt.cause, text, attempt.seconds_cut_short, moment)


def _shards_short(change: Change, stage: StageFacts) -> list[str]:
    """Shards in which an attempt ran out of it, or which failed for want of it. The memory of a GPU cannot be asked
    for."""
    ended = {blamed_shard(a) for a in stage.attempts if cause_named(a.cause).change == change}
    failures = (f for f in stage.failures if cause_named(f.cause, OWN_WORDS).change == change)
    failed = {failure.shard for failure in failures if not re.search("CUDA|GPU", failure.text)}
    return [f"shard {shard}" for shard in sorted((ended | failed) - {""} - set(stage.done))]


def _tasks_short(change: Change, stage: StageFacts) -> list[str]:
    """Tasks that came to no shard: a process may be too large from its start."""
    began = {attempt.job for attempt in stage.attempts}
    ends = [end for end in stage.tasks if end.computes and end.task not in began]
    return [f"task {end.task}" for end in ends if cause_named(end.cause).change == change]


def _control_short(change: Change, stage: StageFacts) -> list[str]:
    ends = [end for end in stage.tasks if not end.computes]
    return [f"job {end.task}" for end in ends if cause_named(end.cause).change == change]


def would_recur(tasks: Sequence[Unstarted], attempts: Sequence[AttemptRecord]) -> list[Unstarted]:
    """Those that would end so again: of their submit no task came to work, and nothing of the stage has worked since.

    Where Python had not begun, once is enough; where it ended before its first shard, that must have happened to two
    submits in the same way. What was released does not count.
    """
    found = list(_of_dead_submits(tasks, attempts))
    times = Counter(why for _, why in {(task.end.submit, task.why) for task in found})
    return [task for task in found if task.end.step or times[task.why] > 1]


def _of_dead_submits(tasks: Sequence[Unstarted], attempts: Sequence[AttemptRecord]) -> Iterator[Unstarted]:
    for folder in sorted({task.end.submit for task in tasks if not task.is_released}):
        ours = [task for task in tasks if task.end.submit == folder and _is_a_fault(task.end)]
        if ours and not _worked(ours, attempts):
            yield from ours


def _is_a_fault(end: ShellEnd) -> bool:
    """Whether it did not even say what it refuses, and nothing is known that another try would do otherwise."""
    return bool(end.step) or (cause_named(end.cause).recurs and end.status != REFUSED_STATUS)


def _worked(tasks: Sequence[Unstarted], attempts: Sequence[AttemptRecord]) -> bool:
    """Whether another task of the same submit came to work, or any later; a canary has its own say."""
    submit, over = tasks[0].submit, max(task.end.moment for task in tasks)
    same = submit.computes and any(each.job.partition("_")[0] == submit.job_id for each in attempts)
    return "canary" in submit.does or same or any(each.started > over for each in attempts)


def bad_nodes(attempts: Sequence[AttemptRecord], now: float) -> dict[str, str]:
    """Node -> what happened there, the latest last: it died under an attempt, or an attempt found it broken, in the
    last day, and none that began later has finished there."""
    found: dict[str, str] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.ended):
        why = _trouble(attempt)
        if attempt.node and why and now - attempt.ended < _BAD_FOR and not _is_well_since(attempt, attempts):
            found[attempt.node] = why
    return found


def _trouble(attempt: AttemptRecord) -> str:
    is_lost = attempt.outcome == "lost" and cause_named(attempt.cause).change == "node"
    return NODE_FAILURE if is_lost else broken_node(f"{attempt.cause} {attempt.detail}")


def _is_well_since(bad: AttemptRecord, attempts: Sequence[AttemptRecord]) -> bool:
    # A node may die long after it was last heard of: for certain only before its task began again elsewhere.
    is_lost = bad.outcome == "lost"
    again = [a.started for a in attempts if is_lost and a.job == bad.job and a.started > bad.started]
    dead = min(again, default=bad.ended)
    return any(a.node == bad.node and a.outcome == "done" and a.started > dead for a in attempts)
