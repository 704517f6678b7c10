"""Training of two networks against each other: a step updates the discriminator, then the generator."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cxr_core.training.engine import Engine, Task
from cxr_core.training.ranked import RankedEngine


class AdversarialTask(Task, Protocol):
    """A task whose module holds `generator` and `discriminator`; its `loss` is the discriminator's.

    A loss must reach the weights of its own network alone: what has no gradient is not updated.
    """

    def generator_loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """As `loss`, of the generator, against the discriminator that has just been updated."""

    def log_values(self, step: int) -> dict[str, Any]:
        """What the metrics row of a step says beside the losses."""


class AdversarialEngine(Engine):
    """One Adam for both networks, whose moments it keeps apart by weight; the generator alone is averaged."""

    task: AdversarialTask

    def _updates(self) -> torch.Tensor:
        discriminator = super()._updates()
        generator = self._update(lambda part: self.task.generator_loss(self.module, self.step, part))
        return torch.cat([discriminator, generator])

    def _row(self, step: int, values: Sequence[float]) -> dict[str, Any]:
        row, generator = (super(AdversarialEngine, self)._row(step, part) for part in (values[:3], values[3:]))
        of_generator = {f"generator_{name}": generator[name] for name in ("loss", "grad_norm")}
        return row | of_generator | self.task.log_values(step)

    def _averaged(self) -> dict[str, torch.Tensor]:
        return {name: held for name, held in super()._averaged().items() if name.startswith("generator.")}


class RankedAdversarialEngine(RankedEngine, AdversarialEngine):
    """On several ranks, each of which holds both networks and steps on the sum of all gradients.

    They are summed here, in one operation an update: torch's DDP does so while a backward pass runs, but waits for the
    gradients of all weights, of which a loss reaches one network's, and knows of no gradient inside a loss.
    """

    def _prepared(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return module, self.accelerator.prepare(optimizer)

    def _sum_gradients(self) -> None:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        summed = parameters_to_vector(gradients)
        dist.all_reduce(summed)
        vector_to_parameters(summed, gradients)
