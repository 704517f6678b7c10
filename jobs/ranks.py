"""A stage that trains on several ranks: started here as processes of this machine, or each by srun on its node."""

import os
import time
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.attempt import at_end
from cxr_core.runs.plan import Shard
from cxr_core.runs.stage import Context, Output
from cxr_core.training.group import Group
from cxr_core.training.rendezvous import GROUP, Meeting

_groups: dict[Path, Group] = {}
"""The live group of each folder: ranks stay from one interval of an attempt to the next."""


def train_on_ranks(context: Context, shard: Shard, work: Path) -> Output:
    """Train one interval on the stage's ranks, which are started with the first one and end with the attempt."""
    until_end = at_end.get()
    if until_end is None:  # a rehearsal, which is no attempt
        with _group(context, work) as group:
            return group.train(shard, work)
    folder = _meeting_place(work)
    if folder not in _groups:
        _groups[folder] = until_end.enter_context(_group(context, work))
        until_end.callback(_groups.pop, folder)
    return _groups[folder].train(shard, work)


def _group(context: Context, work: Path) -> Group:
    if "CXR_RANKS" not in os.environ:
        return Group(context, _meeting_place(work))
    _check_tasks(context)
    # srun started the others, and this process in the place of rank 0.
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE", "0"))
    return Group(context, _meeting_place(work), started_here=[0], gpus=gpus)


def _check_tasks(context: Context) -> None:
    """Raise UserError if the config asks for other ranks than when this job was sent."""
    ranks, started = context.settings.ranks, int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if started != ranks.num:
        raise UserError(
            f"the job was sent for {started} ranks, but the config now asks for {ranks.num}",
            where=f"stage {context.settings.name!r}",
            hint="`cxr cancel RUN`, then `cxr resume RUN` sends it anew",
        )


def _meeting_place(work: Path) -> Path:
    """`work` is the folder of a shard in that of an attempt."""
    return Path(os.environ.get("CXR_RANKS") or work.parents[1] / "ranks")


def is_follower() -> bool:
    """Whether srun started this process as a rank other than the first, whose place the attempt's process takes."""
    return "CXR_RANKS" in os.environ and os.environ.get("SLURM_PROCID", "0") != "0"


def follow() -> None:
    """Be a rank as soon as there is a group to join, and end with it; return when there will be none.

    Raises BadFileError if the folder in which they meet is another user's.
    """
    folder, rank = Path(os.environ["CXR_RANKS"]), int(os.environ["SLURM_PROCID"])
    meeting = Meeting.at(folder).make()
    while not meeting.has(GROUP):
        if meeting.is_over:
            return
        time.sleep(_LOOK_EVERY)
    _write_to(meeting.log(rank))
    # What a rank needs is loaded by those that there are alone.
    from cxr_core.training.rank import run_rank

    run_rank(folder, rank, int(os.environ["SLURM_LOCALID"]))


def dismiss() -> None:
    """Let ranks that were started by srun end, whatever they wait for."""
    if "CXR_RANKS" in os.environ and not is_follower():
        Meeting.at(Path(os.environ["CXR_RANKS"])).end()


_LOOK_EVERY = 0.5


def _write_to(log: int) -> None:
    """What libraries say goes to the rank's own log, not between the lines of the others."""
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
