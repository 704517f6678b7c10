"""The preprocess stage: a folder of radiographs, or phantoms, to a Dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.data.settings import PreprocessStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output


def estimate(settings: PreprocessStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    from cxr_core.data import preprocess

    return preprocess.estimate(settings)


def freeze(context: Context, work: Path) -> Draft:
    from cxr_core.data import preprocess

    return preprocess.freeze(context.settings, work)


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    from cxr_core.data import preprocess

    return preprocess.run_shard(context, shard, work)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    from cxr_core.data import preprocess

    return preprocess.finalize(context, receipts)
