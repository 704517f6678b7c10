"""Tasks that ended before they had an attempt: what their shell and their log say, and whether others did their work.

Such a task has no folder of its own: Python did not begin, or ended before its first shard. What ended it will mostly
end the next one too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxr_core.runs.causes import LAUNCH_FAILED, MISSING_STATUS, cause_named
from cxr_core.runs.door import BadFiles, below
from cxr_core.runs.evidence import ShellEnd, shell_ends, text_of_log
from cxr_core.runs.files import json_text
from cxr_core.runs.ledger import AttemptRecord
from cxr_core.runs.plan import Plan
from cxr_core.runs.provenance import now
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit

FORMAT = 1

RELEASED = "released.json"
"""In the folder of a submit: its unstarted tasks were looked at, and may be sent again."""

_NUM_LINES = 8


@dataclass(frozen=True)
class Unstarted:
    """A task (`12_3`) of `submit` that ended at last as `end` says, without an attempt."""

    task: str
    end: ShellEnd
    submit: Submit
    is_released: bool = False

    @property
    def why(self) -> str:
        """How it ended, and in which step where Python had not begun."""
        return f"{self.end.cause} in {self.end.step}" if self.end.step else self.end.cause

    @property
    def missed(self) -> str:
        """What it did not do."""
        if self.submit.computes:
            return "did not come to its first shard"
        return {"freeze": "did not freeze the plan", "resume": "did not resume the run"}.get(
            self.submit.does[0], "did not finalize the stage"
        )

    @property
    def log(self) -> Path:
        return self.end.submit / f"{self.task}.out"

    @property
    def last_lines(self) -> list[str]:
        """The end of its log; empty where it has none."""
        return [line.rstrip() for line in text_of_log(self.log).splitlines() if line.strip()][-_NUM_LINES:]


def unstarted(folder: StageFolder, attempts: Sequence[AttemptRecord]) -> list[Unstarted]:
    """The tasks of a stage that ended so of their own doing, or could not be launched, and whose work is still not
    done; in the order of their numbers. Not those that only lacked what others were to make."""
    if folder.is_finished:
        return []
    ends = {task: end for task, end in _last_ends(folder, attempts).items() if _counts(end)}
    bad = BadFiles()
    read = {path: bad.read(partial(Submit.read, path), None) for path in {end.submit for end in ends.values()}}
    submits = {path: submit for path, submit in read.items() if submit is not None}
    released = {path for path in submits if below(path, 3).has(RELEASED)}
    found = [
        Unstarted(task, end, submits[end.submit], end.submit in released)
        for task, end in ends.items()
        if end.submit in submits
    ]
    if not found:
        return []
    plan, done, newest = folder.plan(), folder.done(), max(submits)
    return [task for task in found if not _is_made_good(task, plan, done, newest)]


def _counts(end: ShellEnd) -> bool:
    lacked = end.status == MISSING_STATUS and not end.step
    return (cause_named(end.cause).blames_the_work and not lacked) or end.cause == LAUNCH_FAILED


def _last_ends(folder: StageFolder, attempts: Iterable[AttemptRecord]) -> dict[str, ShellEnd]:
    """Task -> how it ended at last, of those that have no attempt since they were last started."""
    begun: dict[str, int] = {}
    for attempt in attempts:
        begun[attempt.job] = max(attempt.restart, begun.get(attempt.job, 0))
    ends = sorted(shell_ends(folder.path).items(), key=lambda item: (_numbers(item[0][0]), item[0][1]))
    return {task: end for (task, restart), end in ends if restart > begun.get(task, -1)}


def _numbers(task: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else 0, part) for part in task.split("_")]


def _is_made_good(task: Unstarted, plan: Plan | None, done: set[str], newest: Path) -> bool:
    """Whether somebody else did since what it was to do."""
    if "resume" in task.submit.does:
        return task.end.submit != newest
    if task.submit.computes:
        shards = shards_of(task.task, task.submit, plan)
        return bool(shards) and done.issuperset(shards)
    return "freeze" in task.submit.does and plan is not None


def shards_of(task: str, submit: Submit, plan: Plan | None) -> list[str]:
    """The shards that a task was to make; empty while they are not known."""
    index = task.rpartition("_")[2]
    if not submit.computes or not index.isdigit() or int(index) >= submit.num_tasks:
        return []
    if submit.packs is not None:
        return list(submit.packs[int(index)])
    return submit.pack(plan, int(index)) if plan else []


def release_tasks(folder: StageFolder, attempts: Sequence[AttemptRecord]) -> None:
    """Let what ended so be sent again."""
    for submit in {task.end.submit for task in unstarted(folder, attempts)}:
        below(submit, 3).write(RELEASED, json_text({"format": FORMAT, "time": now()}))


def grouped(tasks: Iterable[Unstarted]) -> list[list[Unstarted]]:
    """Those that ended in the same way together, the first of each before the others."""
    groups: dict[tuple[str, str], list[Unstarted]] = {}
    for task in tasks:
        groups.setdefault((task.why, task.missed), []).append(task)
    return list(groups.values())


def in_words(group: Sequence[Unstarted]) -> str:
    """One line about tasks that ended in the same way."""
    first = group[0]
    more = f" (and {len(group) - 1} more like it)" if len(group) > 1 else ""
    return f"task {first.task} {first.missed}: {first.why}{more}"
