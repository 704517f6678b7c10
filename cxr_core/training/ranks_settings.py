"""Settings of ranks: how many there are, how they share a batch, and how long they wait for each other."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cxr_core.settings import Settings


class Ranks(Settings):
    """Processes, one a GPU, that share the batch of each step. The losses are those of one process but for rounding.

    All of this may be changed while a run is under way: a checkpoint continues on any number of ranks.
    """

    nodes: PositiveInt = 1
    """Nodes. `cxr run` starts all ranks on its own machine."""
    per_node: int = Field(default=1, ge=1, le=64)
    """Ranks on each node, each with a GPU of its own. Without any GPU they compute on CPUs."""
    silent_seconds: float = Field(default=120, ge=5, le=3600)
    """A rank of which nothing is heard for so long counts as hung, and ends the attempt with its name."""
    collective_minutes: float = Field(default=30, gt=0)
    """How long ranks wait for each other in one operation: longer than rank 0 needs to write a checkpoint."""
    all_reduce_mib: PositiveInt = 256
    """MiB that are summed over all ranks before training, to measure how fast and by which transport they talk."""

    @property
    def num(self) -> int:
        """Ranks in all."""
        return self.nodes * self.per_node


class DiffusionRanks(Ranks):
    """Ranks that need not hold the whole of a large model each. A checkpoint continues with or without DeepSpeed."""

    zero: Literal[0, 1, 2, 3] = 2
    """What ranks share rather than hold whole (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054), by DeepSpeed: from 1
    on AdamW's moments, from 2 on gradients, at 3 weights. 0 shares nothing and needs no DeepSpeed."""
    offload: bool = False
    """Keep AdamW's moments and step in the memory of the host: slower, for GPUs too small. From zero: 1 on."""

    @model_validator(mode="after")
    def _something_to_offload(self) -> Self:
        if self.offload and not self.zero:
            raise ValueError("offload is DeepSpeed's, which zero: 0 does without: set zero to 1, 2 or 3")
        return self


def check_shares(batches: Mapping[str, int], num: int, *, group: int = 1) -> None:
    """Raises ValueError, with what fits, if `num` ranks cannot share a batch in whole groups of `group` images.

    `batches` are all that come, each by the words that name it.
    """
    fitting = [
        n for n in range(1, min(batches.values()) + 1) if not any(size % (n * group) for size in batches.values())
    ]
    groups = f" in whole groups of {group}" if group > 1 else ""
    for name, size in batches.items():
        if size % (num * group):
            near = max(1, round(size / (num * group))) * num * group
            raise ValueError(
                f"{name} cannot be split over {num} ranks{groups}: take a batch_size of {near}, "
                f"or ranks whose number (nodes * per_node) is one of {', '.join(map(str, fitting))}"
            )
