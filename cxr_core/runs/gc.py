"""What a run no longer needs: half-made work of dead attempts, training states that nothing continues, quarantine."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cxr_core.runs.commit import prune
from cxr_core.runs.files import remove, size_of
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.repair import STATE
from cxr_core.runs.run import Run, StageFolder

What = Literal["half-made by a dead attempt", "training state that nothing continues", "quarantine"]


@dataclass(frozen=True)
class Garbage:
    """One thing that may go, with its bytes; `receipt` is set where its removal has to be recorded."""

    folder: StageFolder
    path: Path
    what: What
    bytes: int
    receipt: Receipt | None = None

    def remove(self) -> None:
        """Remove it for good."""
        if self.receipt is not None:
            prune(self.folder.path, self.receipt, [STATE, *_roles_gone(self.folder, self.receipt)], "gc")
        else:
            remove(self.path)


def garbage(run: Run) -> list[Garbage]:
    """All that may be removed from a run. Removes nothing; what a live or silent attempt may use is left out."""
    return [found for stage in run.config["stages"] for found in _of_stage(run.stage(stage["name"]))]


def _of_stage(folder: StageFolder) -> Iterator[Garbage]:
    attempts = read_attempts(folder.path)
    make = partial(_measured, folder)
    for path in _half_made(folder, [attempt for attempt in attempts if attempt.is_over]):
        yield make(path, "half-made by a dead attempt")
    yield from _old_states(folder)
    for path in sorted((folder.path / "quarantine").glob("*")):
        yield make(path, "quarantine")


def _measured(folder: StageFolder, path: Path, what: What, receipt: Receipt | None = None) -> Garbage:
    return Garbage(folder, path, what, size_of(path), receipt)


def _half_made(folder: StageFolder, dead: list[AttemptRecord]) -> Iterator[Path]:
    """Work folders, and temporary files in `shards/` and `receipts/`, whose names carry the attempt."""
    yield from (attempt.folder / "work" for attempt in dead if (attempt.folder / "work").exists())
    ids = {attempt.id for attempt in dead}
    for name in ("shards", "receipts"):
        place = folder.path / name
        names = sorted(entry.name for entry in os.scandir(place) if entry.name[0] == ".") if place.is_dir() else []
        yield from (place / name for name in names if name.endswith(".tmp") and ids & set(name.split(".")))


def _old_states(folder: StageFolder) -> Iterator[Garbage]:
    """The states of a finished chain: its keep rule left the last one, from which nothing goes on any more."""
    plan = folder.plan() if (folder.path / "stage.json").exists() else None
    if plan is None or not plan.chain:
        return
    for receipt in folder.receipts():
        for data in receipt.data:
            path = folder.path / "shards" / data.name
            if data.role == STATE and path.exists():
                yield _measured(folder, path, "training state that nothing continues", receipt)


def _roles_gone(folder: StageFolder, receipt: Receipt) -> list[str]:
    """Roles whose data a keep rule removed before: the record of what is gone names them all."""
    return [data.role for data in receipt.data if not (folder.path / "shards" / data.name).exists()]
