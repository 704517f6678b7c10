"""The training loop on several ranks: what all its forms have in common."""

from typing import Any

import torch
import torch.distributed as dist

from cxr_core.training.engine import Engine, Task
from cxr_core.training.settings import RankedTrain
from cxr_core.training.world import World


class RankedEngine(Engine):
    """See `Engine`. Every rank calls every method, in the same order; rank 0 alone writes."""

    def __init__(self, task: Task, settings: RankedTrain, *, world: World) -> None:
        self.world, self.writes = world, world.rank == 0
        super().__init__(task, settings)

    def agree(self, value: Any) -> Any:
        return self.world.broadcast(value)

    @property
    def _parts(self) -> range:
        """As many for each rank, in order of ranks."""
        num = self.task.num_parts // self.world.size
        return range(self.world.rank * num, (self.world.rank + 1) * num)

    def _one_step(self) -> torch.Tensor:
        self.world.note(self.step)
        return super()._one_step()

    def _over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        updates = values.unflatten(1, (-1, 3))
        losses = updates[..., 0].contiguous()
        dist.all_reduce(losses)
        return torch.cat([losses[..., None], updates[..., 1:]], dim=-1).flatten(1)
