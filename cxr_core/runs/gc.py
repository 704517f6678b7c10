"""What a run no longer needs: half-made work of dead attempts, training states that nothing continues, quarantine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxr_core.runs.commit import prune
from cxr_core.runs.content import weight
from cxr_core.runs.door import BadFiles, Place
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.repair import STATE
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.verify import SET_ASIDE

What = Literal["half-made by a dead attempt", "training state that nothing continues", "quarantine"]


@dataclass(frozen=True)
class Garbage:
    """`name` in `place`, which may go, with its bytes; `receipt` is set where its removal has to be recorded."""

    folder: StageFolder
    place: Place
    name: str
    what: What
    bytes: int
    receipt: Receipt | None = None

    @property
    def path(self) -> Path:
        return self.place.path / self.name

    def remove(self) -> None:
        """Remove it for good. Raises BadFileError if it cannot be."""
        if self.receipt is not None:
            prune(self.folder.path, self.receipt, [STATE, *_roles_gone(self.folder, self.receipt)], "gc")
        else:
            self.place.remove(self.name)


def garbage(run: Run) -> tuple[list[Garbage], BadFiles]:
    """All that may be removed from a run, and the files that are not what they must be. Removes nothing; what a live or
    silent attempt may use is left out."""
    found: list[Garbage] = []
    bad = BadFiles()
    for stage in run.config["stages"]:
        found += _of_stage(run.stage(stage["name"]), bad)
    aside = run.stage(SET_ASIDE)
    found += [_measured(aside, aside.place, entry.name, "quarantine") for entry in bad.read(aside.place.entries, [])]
    return found, bad


def _of_stage(folder: StageFolder, bad: BadFiles) -> Iterator[Garbage]:
    attempts = bad.read(lambda: read_attempts(folder.path), [])
    for place, name in _half_made(folder, [attempt for attempt in attempts if attempt.is_over], bad):
        yield _measured(folder, place, name, "half-made by a dead attempt")
    yield from bad.read(lambda: list(_old_states(folder, bad)), [])
    quarantine = folder.place / "quarantine"
    for entry in bad.read(quarantine.entries, []):
        yield _measured(folder, quarantine, entry.name, "quarantine")


def _measured(folder: StageFolder, place: Place, name: str, what: What, receipt: Receipt | None = None) -> Garbage:
    return Garbage(folder, place, name, what, weight(place, name), receipt)


def _half_made(folder: StageFolder, dead: list[AttemptRecord], bad: BadFiles) -> Iterator[tuple[Place, str]]:
    """Work folders, and temporary files in `shards/` and `receipts/`, whose names carry the attempt."""
    attempts = folder.place / "attempts"
    yield from ((attempts / attempt.id, "work") for attempt in dead if (attempts / attempt.id).has("work"))
    ids = {attempt.id for attempt in dead}
    for place in (folder.place / "shards", folder.place / "receipts"):
        names = [entry.name for entry in bad.read(place.entries, []) if entry.name[0] == "."]
        yield from ((place, name) for name in names if name.endswith(".tmp") and ids & set(name.split(".")))


def _old_states(folder: StageFolder, bad: BadFiles) -> Iterator[Garbage]:
    """The states of a finished chain: its keep rule left the last one, from which nothing goes on any more."""
    plan = folder.plan() if folder.is_finished else None
    if plan is None or not plan.chain:
        return
    shards = folder.place / "shards"
    for receipt in folder.receipts_of(sorted(folder.done()), bad):
        for data in receipt.data:
            if data.role == STATE and shards.has(data.name):
                yield _measured(folder, shards, data.name, "training state that nothing continues", receipt)


def _roles_gone(folder: StageFolder, receipt: Receipt) -> list[str]:
    """Roles whose data a keep rule removed before: the record of what is gone names them all."""
    return [data.role for data in receipt.data if not (folder.place / "shards").has(data.name)]
