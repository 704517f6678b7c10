"""One task of a submit: `python -m jobs.task RUN STAGE SUBMIT`, with the number of the task from the scheduler.

Ends with 0, with 75 if it stopped at a safe point and wants to be requeued, with 69 where what other tasks were to make
is missing, with 2 after a mistake of the user's.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_core.errors import UserError, explain_os_error
from cxr_core.log import crash, fail, json_lines, room_log, show_log
from cxr_core.runs.causes import MISSING_STATUS
from cxr_core.runs.submits import Submit
from jobs.environment import prepare_environment, tell_the_shell
from slurm.script import REQUEUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cxr_core.runs.pack import Work
    from cxr_core.runs.run import Run, StageFolder

log = room_log("jobs.task")  # whose name as a program is another

_LOOK_EVERY = 2.0
"""Seconds between two looks for a file that another node wrote."""


class Warned:
    """Whether the batch shell was warned of the end. It tells by a byte in the file that CXR_FLAG names."""

    def __init__(self, flag: Path | None) -> None:
        self.flag = flag
        self._num_asked = 0

    def __call__(self) -> bool:
        """Asked before each shard. From the second time on there is progress, which the shell is told in turn."""
        if self.flag is None:
            return False
        self._num_asked += 1
        if self._num_asked == 2:
            self.flag.with_name(f"{self.flag.name}.more").touch()
        # Opened again each time: a network file system shows another's bytes only then.
        return self.flag.exists() and bool(self.flag.read_bytes())


def check_cpus(submit: Submit, mask: int) -> None:
    """Raises UserError if the task may use fewer CPUs than its plan says."""
    planned = submit.resources.get("cpus_per_task", 1)
    if mask < planned:
        raise UserError(
            f"the task may use {mask} CPUs (its affinity mask), but the plan says {planned}",
            where=f"stage {submit.stage!r} on {os.uname().nodename}",
            hint="the cluster binds tasks otherwise than asked: set `cpu_bind` in its profile (e.g. none), "
            "or lower cpus_per_task",
        )


class MissingError(UserError):
    """What other tasks were to make is not there: it is their end that wants to be explained, not this one."""


def wait_until(seen: Callable[[], bool], seconds: float) -> bool:
    """Look again for `seconds` before something that another node wrote is called missing."""
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(_LOOK_EVERY, max(0.1, seconds)))
    return True


def missing(folder: "StageFolder") -> str:
    """What a stage lacks, in words; empty if it is finished."""
    if folder.facts() is not None:
        return ""
    plan = folder.plan()
    if plan is None:
        return f"stage {folder.name!r} was not planned"
    done = folder.done()
    lacking = [shard.id for shard in plan.shards if shard.id not in done]
    if not lacking:
        return f"stage {folder.name!r} has all its shards but was not finalized"
    more = ", ..." if len(lacking) > 10 else ""
    return (
        f"stage {folder.name!r} lacks {len(lacking)} of {len(plan.shards)} shards: {', '.join(lacking[:10])}{more} "
        f"(why: {folder.path / 'attempts'})"
    )


def gate(run: "Run", stages: list[str], seconds: float) -> None:
    """Raises UserError naming what is missing of the stages that this one needs."""
    wait_until(lambda: all(run.stage(name).facts() is not None for name in stages), seconds)
    lacking = [text for name in stages if (text := missing(run.stage(name)))]
    if lacking:
        raise MissingError("; ".join(lacking), where=str(run.root), hint=f"cxr resume {run.root}")


@contextmanager
def _alone(folder: "StageFolder") -> "Iterator[None]":
    """One freezer at a time: a requeued task may meet its former self."""
    from cxr_core.runs.locks import hold, open_lock

    with open_lock(folder.place.make(), ".freeze.lock") as lock:
        hold(lock, wait=True)
        yield


def run_task(root: Path, stage: str, number: str, index: int) -> None:
    """Do what the submit says: freeze, make the shards of pack `index`, finalize."""
    from cxr_core.runs.pack import finalize, freeze, run_pack
    from cxr_core.runs.run import Run
    from jobs.config import config_of
    from jobs.inputs import inputs_of
    from jobs.launch import prepare

    run = Run.open(root)
    submit = Submit.read(run.stage(stage).path / "submits" / number)
    check_cpus(submit, len(os.sched_getaffinity(0)))
    config = config_of(run)
    names = {other.name for other in config.stages}
    gate(run, [name for name in inputs_of(config.stage(stage)).values() if name in names], submit.visible_seconds)
    work = prepare(run, config, stage)
    if "canary" in submit.does:
        _try_stage(work, run.stage(stage).path / "submits" / number)
        return
    if "freeze" in submit.does:
        with _alone(work.folder):
            freeze(work)
    _wait_for_plan(work, submit)
    plan = freeze(work)
    if "shards" in submit.does:
        flag = os.environ.get("CXR_FLAG")
        run_pack(work, plan, submit.pack(plan, index), must_stop=Warned(Path(flag) if flag else None))
    if "finalize" in submit.does:
        _wait_for_receipts(work, submit)
        finalize(work, plan)


REHEARSAL = "rehearsal.json"
"""In the folder of a submit: what ten steps of a training took."""

_NUM_REHEARSED = 10


def _try_stage(work: "Work", submit: Path) -> None:
    """Make the first shard of a stage, or try ten steps of a training, of which nothing is kept but their time."""
    from cxr_core.runs.pack import freeze, run_pack

    if work.context.settings.kind == "train":
        _rehearse(work, submit)
        return
    with _alone(work.folder):
        plan = freeze(work)
    run_pack(work, plan, [plan.shards[0].id])


def _rehearse(work: "Work", submit: Path) -> None:
    from cxr_core.runs.files import remove, write_json

    scratch = submit / "rehearsal"
    remove(scratch)
    steps = min(_NUM_REHEARSED, work.context.settings.steps)
    settings = work.context.settings.model_copy(update={"steps": steps, "checkpoint_every": steps})
    context = replace(work.context, settings=settings, folder=scratch)
    for folder in (context.plan_folder, scratch / "work"):
        folder.mkdir(parents=True)
    try:
        draft = work.job.freeze(context, context.plan_folder)
        # Of the steps alone: loading libraries and writing a checkpoint are done once an interval.
        seconds = work.job.run_shard(context, draft.shards[0], scratch / "work").seconds["train"]
    finally:
        remove(scratch)
    node = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
    write_json(submit / REHEARSAL, {"format": 1, "steps": steps, "seconds": seconds, "node": node})


def _wait_for_plan(work: "Work", submit: Submit) -> None:
    if not wait_until(work.folder.plan_path.exists, submit.visible_seconds):
        raise MissingError(
            f"the plan of stage {submit.stage!r} is not there",
            where=str(work.folder.plan_path),
            hint="the job that freezes it failed: see the logs in submits/, then `cxr resume RUN`",
        )


def _wait_for_receipts(work: "Work", submit: Submit) -> None:
    plan = work.folder.plan()
    ids = {shard.id for shard in plan.shards} if plan else set()
    if not wait_until(lambda: ids <= work.folder.done(), submit.visible_seconds):
        raise MissingError(
            missing(work.folder), where=str(work.folder.path), hint=f"cxr resume {work.folder.path.parent}"
        )


def main(words: list[str]) -> int:
    """Run the task that the command line and the scheduler name; returns the exit status."""
    tell_the_shell()
    from jobs import ranks

    show_log()
    # Slurm sends this to every process of a step long before it kills: the shell is warned, and what is nearly done
    # can be kept. Ignored rather than handled, so that children ignore it too.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if ranks.is_follower():
            return _ended(ranks.follow)
        root, stage, number = words
        index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        with _recorded(Path(root), stage, number, index):
            return _ended(lambda: run_task(Path(root), stage, number, index))
    finally:
        ranks.dismiss()


@contextmanager
def _recorded(root: Path, stage: str, number: str, index: int) -> "Iterator[None]":
    """Write log records that are of no attempt beside the task's log, as lines of JSON: those from INFO on.

    There mostly are none, and then no file: a run may have thousands of tasks.
    """
    from functools import partial

    from cxr_core.runs.door import below

    flag = os.environ.get("CXR_FLAG")
    name = Path(flag).stem if flag else f"local_{index}-0"
    write = partial(below(root / stage / "submits" / number, 3).append, f"{name}.jsonl")
    with json_lines(write, lambda: {"stage": stage, "shard": "", "attempt": ""}, level=logging.INFO):
        yield


def _ended(work: Callable[[], None]) -> int:
    """The exit status of the work; what a person can correct is said without a traceback."""
    from cxr_core.runs.causes import Stopped

    try:
        prepare_environment()
        work()
    except Stopped as stopped:
        log.info("stopped %s", stopped)
        return REQUEUE
    except UserError as error:
        fail(log, str(error))
        return MISSING_STATUS if isinstance(error, MissingError) else 2
    except Exception as error:
        text = explain_os_error(error) if isinstance(error, OSError) else None
        if text is None:
            crash(log, error)
            raise
        fail(log, text)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
