"""One rank: `python -m cxr_core.training.rank FOLDER RANK LOCAL_RANK`, started by `group` or, on other nodes, by srun.

It trains one interval after the other, as it is told to. Whatever it fails of, it says in its own words in the folder
and ends with 0: what becomes of the attempt is decided by its starter alone.
"""

import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import Discriminator, TypeAdapter

from cxr_core.errors import UserError
from cxr_core.log import show_log
from cxr_core.runs.failures import text_of
from cxr_core.runs.plan import Shard
from cxr_core.runs.progress import heartbeat
from cxr_core.training.rendezvous import (
    ANSWER,
    GROUP,
    ORDER,
    About,
    Meeting,
    Order,
    RankAnswer,
    RankHeartbeat,
    RankPlace,
    Refusal,
    Words,
    wait_until,
    words_name,
)

_PAUSE = 0.1
_WAIT = 1.0
"""Seconds after which rank 0 tells the others that there is no order yet: none of them waits long in one operation."""
_VISIBLE_SECONDS = 120
"""How long a receipt that another node wrote may stay unseen."""


def run_rank(folder: Path, rank: int, local_rank: int) -> NoReturn:
    """Be one rank of the group that meets in `folder`, until it is over; the process ends with it."""
    show_log()
    meeting = Meeting.at(folder)
    beat = RankHeartbeat(meeting, rank)
    heartbeat.set(beat.progress)
    # Of DeepSpeed's calls of torch; there is nothing that a reader of the log could do about them.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        _work(folder, rank, local_rank, beat)
    except Exception as error:  # noqa: BLE001 - told to the starter, which raises it
        traceback.print_exc()
        told = Refusal(error.what, error.where, error.hint) if isinstance(error, UserError) else None
        meeting.put(words_name(rank), Words(time.time(), text_of(error), told))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without a wait for what threads of torch still ask of the other ranks


def _work(folder: Path, rank: int, local_rank: int, beat: RankHeartbeat) -> None:
    about = beat.meeting.get(GROUP, About)
    assert about is not None
    place = RankPlace(folder, rank, local_rank, about.size, about.num_local, about.gpus)
    # Only now what takes long to load: the heart beats.
    import torch.distributed as dist

    from cxr_core.runs.stage import Context
    from cxr_core.training.interval import run_interval
    from cxr_core.training.pggan_settings import PgganTrain
    from cxr_core.training.settings import DiffusionTrain
    from cxr_core.training.world import join, preflight

    either = TypeAdapter[DiffusionTrain | PgganTrain](Annotated[DiffusionTrain | PgganTrain, Discriminator("model")])
    settings = either.validate_python(about.settings)
    assert settings.ranks is not None
    inputs = {role: Path(path) for role, path in about.inputs.items()}
    context = Context(settings, inputs, about.seed, Path(about.stage))
    world = join(place, settings.ranks, beat.note, beat.strangers)
    preflight(place, settings.ranks, world)
    for order, shard in _orders(beat.meeting, world):
        beat.begin(order.number)
        if shard.start:
            receipt = context.folder / "receipts" / f"{shard.extra['after']}.json"
            wait_until(receipt.exists, receipt, _VISIBLE_SECONDS)
        made = run_interval(context, shard, Path(order.work), world=world)
        if made is not None:
            paths = {role: str(path) for role, path in made.paths.items()}
            answer = RankAnswer(order.number, paths, made.digest, dict(made.counts), dict(made.seconds))
            beat.meeting.put(ANSWER, answer)
    dist.destroy_process_group()
    world.leave()


def _orders(meeting: Meeting, world: Any) -> Iterator[tuple[Order, Shard]]:
    """What rank 0 reads, given to all, until there is to be no more."""
    number = 0
    while True:
        told = world.broadcast(_next(meeting, number) if world.rank == 0 else None)
        if told is None:
            continue
        if told["shard"] is None:
            return
        order, shard = Order(**told), Shard(**told["shard"])
        yield order, shard
        number = order.number


def _next(meeting: Meeting, number: int) -> dict[str, Any] | None:
    """The order that comes after the one of this number; None if there is none within a second."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        order = meeting.get(ORDER, Order)
        if order is not None and order.number > number:
            return asdict(order)
        time.sleep(_PAUSE)
    return None


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
