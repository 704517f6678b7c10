"""An exponential moving average of weights, and of the statistics that layers gather of them, in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


def decay_at(step: int, decay: float) -> float:
    """Decay of the average at the `step`-th update (from 1): small at first, so that random weights are soon forgotten.

    min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """average <- d * average + (1 - d) * weights, with d = `decay_at` the update's number."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self._parameters = list(parameters.values())
        self.average = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the `step`-th optimiser step (from 1)."""
        current = [parameter.detach().float() for parameter in self._parameters]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay_at(step, self.decay))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the parameters have the averaged values; afterwards, bit for bit, their own again."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(list(self.average.values()))
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
