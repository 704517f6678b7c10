"""The parts of the evaluate job: each answers one question about a synthetic Dataset, and is a module like `Part`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset  # takes a second, and every plan imports the parts


class Part(Protocol):
    """What a part's module offers. Shard ids begin with a word of the part's own."""

    def estimate(self, settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
        """The size of the part's work; nothing where the settings do not ask for it."""

    def shards(self, context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
        """Decide the part's shards; write side files of the plan into `work`. Raises UserError on what cannot be."""

    def run(self, context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
        """Make one shard's data in the empty folder `work`."""

    def measure(
        self,
        context: Context,
        receipts: Mapping[str, Receipt],
        datasets: Mapping[str, "Dataset"],
        found: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """The part's fields of `Metrics`, from the receipts of all shards by id, in the plan's order.

        `found` has the fields of the parts before it.
        """
