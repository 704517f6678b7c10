"""The overfit alarm: when the loss on held-out patients says that training has gone on for too long."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from cxr_core.runs.door import MIB, BadFiles, FolderEntry, Place, below, parse
from cxr_core.runs.records import Count

RISE = 0.02
"""Share by which the validation loss lies above its lowest value."""
CHECKPOINTS = 3
"""Newest checkpoints at all of which it does; one alone may be a chance."""
RULE = f"at each of the last {CHECKPOINTS} checkpoints more than {RISE:.0%} above its lowest value".replace("%", " %")


@dataclass(frozen=True)
class Overfit:
    """The checkpoint of the lowest validation loss, and how far the newest lies above it, as a share."""

    best_step: int
    rise: float


def overfit(losses: Sequence[tuple[int, float]]) -> Overfit | None:
    """By `RULE`, from (step, validation loss) of each checkpoint in order: None while there is no alarm.

    Images, steps and noise of validation are the same at every checkpoint, so a rise is none of chance in these.
    """
    if len(losses) <= CHECKPOINTS:
        return None
    step, lowest = min(losses, key=lambda point: point[1])
    if lowest <= 0 or min(loss for _, loss in losses[-CHECKPOINTS:]) <= (1 + RISE) * lowest:
        return None
    return Overfit(step, losses[-1][1] / lowest - 1)


class _Row(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    step: Count
    validation_loss: Annotated[float, Field(ge=0)] | None


def overfit_of(stage_folder: Path, bad: BadFiles) -> Overfit | None:
    """The same of a train stage that may be under way, from the last line of each interval's metrics. Files that are
    none are added to `bad`."""
    shards = below(stage_folder, 1) / "shards"
    entries: list[FolderEntry] = bad.read(shards.entries, [])
    names = [entry.name for entry in entries if entry.name.endswith(".jsonl")]
    rows = [row for name in names if (row := bad.read(partial(_last_row, shards, name), None)) is not None]
    found = {row["step"]: loss for row in rows if (loss := row.get("validation_loss")) is not None and "step" in row}
    return overfit(sorted(found.items()))


def _last_row(shards: Place, name: str) -> _Row | None:
    """A row has some hundred bytes."""
    lines = shards.tail(name, limit=MIB).splitlines()
    return parse(lines[-1].encode(), _Row, shards.path / name) if lines else None
