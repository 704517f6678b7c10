"""One rank: `python -m cxr_core.training.rank FOLDER RANK LOCAL_RANK`, started by `group` or, on other nodes, by srun.

It trains one interval after the other, as it is told to. Whatever it fails of, it says in its own words in the folder
and ends with 0: what becomes of the attempt is decided by its starter alone.
"""

import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, TypeAdapter

from cxr_core.errors import UserError
from cxr_core.runs.failures import text_of
from cxr_core.runs.progress import heartbeat
from cxr_core.training.rendezvous import ANSWER, GROUP, ORDER, Beat, RankPlace, get, put, wait_for, words_path

_PAUSE = 0.1
_WAIT = 1.0
"""Seconds after which rank 0 tells the others that there is no order yet: none of them waits long in one operation."""
_VISIBLE_SECONDS = 120
"""How long a receipt that another node wrote may stay unseen."""


def run_rank(folder: Path, rank: int, local_rank: int) -> None:
    """Be one rank of the group that meets in `folder`, until it is over."""
    beat = Beat(folder, rank)
    heartbeat.set(beat.progress)
    # Of DeepSpeed's calls of torch; there is nothing that a reader of the log could do about them.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        _work(folder, rank, local_rank, beat)
    except Exception as error:  # noqa: BLE001 - told to the starter, which raises it
        traceback.print_exc()
        told = {"what": error.what, "where": error.where, "mend": error.mend} if isinstance(error, UserError) else {}
        put(words_path(folder, rank), {"time": time.time(), "text": text_of(error), "user": told})


def _work(folder: Path, rank: int, local_rank: int, beat: Beat) -> None:
    about = get(folder / GROUP)
    assert about is not None
    place = RankPlace(folder, rank, local_rank, about["size"], about["num_local"], about["first_port"], about["gpus"])
    # Only now what takes long to load: the heart beats.
    import torch.distributed as dist

    from cxr_core.runs.plan import Shard
    from cxr_core.runs.stage import Context
    from cxr_core.training.interval import run_interval
    from cxr_core.training.pggan_settings import PgganTrain
    from cxr_core.training.settings import DiffusionTrain
    from cxr_core.training.world import join, preflight

    either = TypeAdapter[DiffusionTrain | PgganTrain](Annotated[DiffusionTrain | PgganTrain, Discriminator("model")])
    settings = either.validate_python(about["settings"])
    assert settings.ranks is not None
    inputs = {role: Path(path) for role, path in about["inputs"].items()}
    context = Context(settings, inputs, about["seed"], Path(about["stage"]))
    world = join(place, settings.ranks, beat.note)
    preflight(place, settings.ranks)
    for order in _orders(folder, world):
        shard = Shard(**order["shard"])
        beat.begin(order["number"])
        if shard.start:
            wait_for(context.folder / "receipts" / f"{shard.extra['after']}.json", _VISIBLE_SECONDS)
        made = run_interval(context, shard, Path(order["work"]), world=world)
        if made is not None:
            paths = {role: str(path) for role, path in made.paths.items()}
            put(folder / ANSWER, asdict(made) | {"number": order["number"], "paths": paths})
    dist.destroy_process_group()


def _orders(folder: Path, world: Any) -> Iterator[dict[str, Any]]:
    """What rank 0 reads, given to all, until there is to be no more."""
    number = 0
    while True:
        order = world.broadcast(_next(folder, number) if world.rank == 0 else None)
        if order is None:
            continue
        if order.get("shard") is None:
            return
        yield order
        number = order["number"]


def _next(folder: Path, number: int) -> dict[str, Any] | None:
    """The order that comes after the one of this number; None if there is none within a second."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        order = get(folder / ORDER)
        if order is not None and order["number"] > number:
            return order
        time.sleep(_PAUSE)
    return None


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
