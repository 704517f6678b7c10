"""Tasks that ended before they had an attempt: what their shell and their log say, and whether to send them again.

Such a task has no folder of its own: Python did not begin, or ended before its first shard. What ended it will mostly
end the next one too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxr_core.runs.door import BadFiles, below
from cxr_core.runs.ends import LAUNCH_FAILED, MISSING, ShellEnd, ended_by_itself, is_own_doing, shell_ends
from cxr_core.runs.files import json_text
from cxr_core.runs.last_words import text_of_log
from cxr_core.runs.ledger import AttemptRecord
from cxr_core.runs.plan import Plan
from cxr_core.runs.provenance import now
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit

FORMAT = 1

RELEASED = "released.json"
"""In the folder of a submit: its dead tasks were looked at, and may be sent again."""

_REFUSED = 2
"""Exit status of a task that said what it refused."""

_NUM_LINES = 8


@dataclass(frozen=True)
class Stillborn:
    """A task (`12_3`) of `submit` whose last life ended as `end` says, without an attempt."""

    task: str
    end: ShellEnd
    submit: Submit

    @property
    def why(self) -> str:
        """How it ended, and in which step where Python had not begun."""
        return f"{self.end.why} in {self.end.step}" if self.end.step else self.end.why

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


def stillborn(folder: StageFolder, attempts: Sequence[AttemptRecord]) -> list[Stillborn]:
    """The tasks of a stage that died so of their own doing, or could not be launched, and whose work is still not done;
    in the order of their numbers. Not those that only lacked what others were to make."""
    if folder.is_finished:
        return []
    ends = {task: end for task, end in _last_ends(folder, attempts).items() if _counts(end)}
    bad = BadFiles()
    read = {path: bad.read(partial(Submit.read, path), None) for path in {end.submit for end in ends.values()}}
    submits = {path: submit for path, submit in read.items() if submit is not None}
    found = [Stillborn(task, end, submits[end.submit]) for task, end in ends.items() if end.submit in submits]
    if not found:
        return []
    plan, done = folder.plan(), folder.done()
    newest = max(submits, default=None)
    return [dead for dead in found if not _is_made_good(dead, plan, done, newest)]


def _counts(end: ShellEnd) -> bool:
    lacked = end.status == MISSING and not end.step
    return (is_own_doing(end.why) and not lacked) or end.why == LAUNCH_FAILED


def _last_ends(folder: StageFolder, attempts: Iterable[AttemptRecord]) -> dict[str, ShellEnd]:
    """Task -> how its last life ended, of those whose last life has no attempt."""
    begun: dict[str, int] = {}
    for attempt in attempts:
        begun[attempt.job] = max(attempt.restart, begun.get(attempt.job, 0))
    ends = sorted(shell_ends(folder.path).items(), key=lambda item: (_numbers(item[0][0]), item[0][1]))
    return {task: end for (task, restart), end in ends if restart > begun.get(task, -1)}


def _numbers(task: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else 0, part) for part in task.split("_")]


def _is_made_good(dead: Stillborn, plan: Plan | None, done: set[str], newest: Path | None) -> bool:
    """Whether somebody else did since what it was to do."""
    if "resume" in dead.submit.does:
        return dead.end.submit != newest
    if dead.submit.computes:
        shards = shards_of(dead.task, dead.submit, plan)
        return bool(shards) and done.issuperset(shards)
    return "freeze" in dead.submit.does and plan is not None


def shards_of(task: str, submit: Submit, plan: Plan | None) -> list[str]:
    """The shards that a task was to make; empty while they are not known."""
    index = task.rpartition("_")[2]
    if not submit.computes or not index.isdigit() or int(index) >= submit.num_tasks:
        return []
    if submit.packs is not None:
        return list(submit.packs[int(index)])
    return submit.pack(plan, int(index)) if plan else []


def hopeless(folder: StageFolder, attempts: Sequence[AttemptRecord]) -> list[Stillborn]:
    """Those that would die again: of their submit no task came to work, and nothing of the stage has worked since.

    Where Python had not begun, once is enough; where it ended before its first shard, that must have happened to two
    submits in the same way. What `release_tasks` released does not count.
    """
    found = list(_of_dead_submits(stillborn(folder, attempts), attempts))
    submits = {(dead.end.submit, dead.why) for dead in found}
    times = Counter(why for _, why in submits)
    return [dead for dead in found if dead.end.step or times[dead.why] > 1]


def _of_dead_submits(tasks: Sequence[Stillborn], attempts: Sequence[AttemptRecord]) -> Iterator[Stillborn]:
    for folder in sorted({dead.end.submit for dead in tasks}):
        ours = [dead for dead in tasks if dead.end.submit == folder and _is_a_fault(dead.end)]
        if ours and not below(folder, 3).has(RELEASED) and not _worked(ours, attempts):
            yield from ours


def _is_a_fault(end: ShellEnd) -> bool:
    """Whether it did not even say what it refuses, and nothing is known that another try would do otherwise."""
    by_itself = ended_by_itself(end.why) and end.status != _REFUSED
    return bool(end.step) or by_itself or end.why.startswith("signal ")


def _worked(tasks: Sequence[Stillborn], attempts: Sequence[AttemptRecord]) -> bool:
    """Whether another task of the same submit came to work, or any later; a canary has its own say."""
    submit, over = tasks[0].submit, max(dead.end.moment for dead in tasks)
    same = submit.computes and any(each.job.partition("_")[0] == submit.job_id for each in attempts)
    return "canary" in submit.does or same or any(each.started > over for each in attempts)


def release_tasks(folder: StageFolder, attempts: Sequence[AttemptRecord]) -> None:
    """Let what died so be sent again."""
    for submit in {dead.end.submit for dead in stillborn(folder, attempts)}:
        below(submit, 3).write(RELEASED, json_text({"format": FORMAT, "time": now()}))


def grouped(tasks: Iterable[Stillborn]) -> list[list[Stillborn]]:
    """Those that died in the same way together, the first of each before the others."""
    groups: dict[tuple[str, str], list[Stillborn]] = {}
    for dead in tasks:
        groups.setdefault((dead.why, dead.missed), []).append(dead)
    return list(groups.values())


def told(group: Sequence[Stillborn]) -> str:
    """One line about tasks that died in the same way."""
    first = group[0]
    more = f" (and {len(group) - 1} more like it)" if len(group) > 1 else ""
    return f"task {first.task} {first.missed}: {first.why}{more}"
