"""How far a PG-GAN has grown: a function of the step, so that nothing of it has to be saved."""

from bisect import bisect_right
from dataclasses import dataclass

from cxr_core.training.pggan_settings import PgganTrain


@dataclass(frozen=True)
class GrowthPosition:
    """What a step works on: `scale` from 0, the share `fade` (0..1) of its newest layers, and its real images.

    These are the `batch_size` after the first `first_image`.
    """

    scale: int
    fade: float
    first_image: int
    batch_size: int


def position_at(settings: PgganTrain, step: int) -> GrowthPosition:
    """At the update from `step` to `step` + 1 (from 0). The fade rises in a line with the images of the scale."""
    first_steps = settings.first_steps
    scale = bisect_right(first_steps, step) - 1
    budget = settings.budgets[scale]
    shown = (step + 1 - first_steps[scale]) * budget.batch_size
    fade = min(1.0, shown / budget.fade_images) if budget.fade_images else 1.0
    return GrowthPosition(scale, fade, settings.num_images(0, step), budget.batch_size)
