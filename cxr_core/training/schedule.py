"""The learning rate as a function of the step."""

import math
from typing import Literal, Protocol


class Scheduled(Protocol):
    """Settings of anything that is trained in steps, as `TrainSettings` documents them."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Literal["constant", "linear", "cosine"]: ...


def learning_rate(settings: Scheduled, step: int) -> float:
    """Learning rate of the update from `step` to `step` + 1 (from 0).

    Rises in a line over `warmup_steps` and reaches the peak at its last; then constant, or falls towards zero at
    `steps` in a line or half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.learning_rate * falling[settings.schedule]
