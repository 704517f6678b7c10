"""All that is recorded of the work on a stage and of how it ended, read once: what `follow_up` decides by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cxr_core.runs.accounting import Accounting
from cxr_core.runs.causes import cause_named
from cxr_core.runs.door import BadFiles
from cxr_core.runs.evidence import shell_ends
from cxr_core.runs.failures import Failure, failures_in, forgiven, parked
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from cxr_core.runs.unstarted import Unstarted, unstarted


@dataclass(frozen=True)
class TaskEnd:
    """That a start of a task ended of a cause, as its shell or the accounts say; `computes`: it was to make shards."""

    task: str
    cause: str
    computes: bool


@dataclass(frozen=True)
class StageFacts:
    """One stage. `failures` are those that its attempts recorded; `forgiven` are, of a shard, the attempts before its
    last release; `raised` and `control_raised` what earlier submits asked for otherwise than the profile says."""

    name: str
    attempts: Sequence[AttemptRecord] = ()
    failures: Sequence[Failure] = ()
    done: Collection[str] = frozenset()
    parked: Collection[str] = frozenset()
    forgiven: Mapping[str, Collection[str]] = field(default_factory=dict)
    tasks: Sequence[TaskEnd] = ()
    unstarted: Sequence[Unstarted] = ()
    raised: Mapping[str, str] = field(default_factory=dict)
    control_raised: Mapping[str, str] = field(default_factory=dict)


def blamed_shard(attempt: AttemptRecord) -> str:
    """The shard that may be why an attempt ended in the middle of it; empty where nothing is held against one."""
    is_blamed = attempt.is_over and cause_named(attempt.cause).counts_for_parking(attempt.num_shards)
    return attempt.shard if is_blamed else ""


def facts_of_run(run: Run) -> list[StageFacts]:
    """Of each stage. Raises BadFileError where a record on which a resume depends is damaged."""
    return [facts_of(run.stage(stage["name"])) for stage in run.config["stages"]]


def facts_of(folder: StageFolder) -> StageFacts:
    """Of one stage; nothing if there is no folder of it yet."""
    attempts = read_attempts(folder.path)
    submits = {path: Submit.read(path) for path in submit_folders(folder.path)}
    return StageFacts(
        name=folder.name,
        attempts=attempts,
        failures=[failure for attempt in attempts if attempt.num_failed for failure in failures_in(attempt.folder)],
        done=folder.done(),
        parked=parked(folder.path),
        forgiven={shard: forgiven(folder.path, shard) for shard in filter(None, map(blamed_shard, attempts))},
        tasks=_task_ends(folder, submits),
        unstarted=BadFiles().read(partial(unstarted, folder, attempts), []),
        raised=_raised(submits.values(), computes=True),
        control_raised=_raised(submits.values(), computes=False),
    )


def _task_ends(folder: StageFolder, submits: Mapping[Path, Submit]) -> list[TaskEnd]:
    """Of the tasks that began, which therefore have a log."""
    kinds = {log.stem: submit.computes for path, submit in submits.items() for log in path.glob("*.out")}
    by_accounts = [(account.job, account.cause) for account in Accounting.read(folder.path.parent).starts]
    by_shell = [(task, end.cause) for (task, _), end in shell_ends(folder.path).items()]
    ends = sorted({(task, cause) for task, cause in (*by_shell, *by_accounts) if cause and task in kinds})
    return [TaskEnd(task, cause, kinds[task]) for task, cause in ends]


def _raised(submits: Collection[Submit], *, computes: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for submit in submits:
        if submit.computes == computes:
            found |= submit.raised
    return found
