"""The overfit alarm: when the loss on held-out patients says that training has gone on for too long."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    if min(loss for _, loss in losses[-CHECKPOINTS:]) <= (1 + RISE) * lowest:
        return None
    return Overfit(step, losses[-1][1] / lowest - 1)


def overfit_of(stage_folder: Path) -> Overfit | None:
    """The same of a train stage that may be under way, from the last line of each interval's metrics."""
    texts = (path.read_text().splitlines() for path in stage_folder.glob("shards/*.jsonl"))
    last = [json.loads(lines[-1]) for lines in texts if lines]
    found = {row["step"]: row["validation_loss"] for row in last if row.get("validation_loss") is not None}
    return overfit(sorted(found.items()))
