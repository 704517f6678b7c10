"""The preprocess stage: a folder of radiographs, or phantoms, to a Dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.data.settings import PreprocessStage
from cxr_core.runs.plan import Plan, Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output


def estimate(settings: PreprocessStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    from cxr_core.data import preprocess

    return preprocess.estimate(settings)


def estimate_planned(settings: PreprocessStage, num_items: int) -> Estimate:
    """As `estimate`, where the plan has told how many images there are."""
    from cxr_core.data import preprocess

    return preprocess.size_of(settings, num_items)


def sources(settings: PreprocessStage) -> list[Path]:
    """Tables and lists; images are looked at by size and time."""
    from cxr_core.data import inputs

    return inputs.tables(settings)


def frozen(context: Context) -> None:
    """Write down size and time of the images."""
    from cxr_core.data import inputs

    inputs.record(context)


def source_changes(context: Context, plan: Plan, files: Sequence[str], *, is_finished: bool) -> list[str]:
    """Rows and images that are not what they were when they were read."""
    from cxr_core.data import inputs

    return inputs.changes(context, plan, files, is_finished=is_finished)


def freeze(context: Context, work: Path) -> Draft:
    from cxr_core.data import preprocess

    return preprocess.freeze(context.settings, work)


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    from cxr_core.data import preprocess

    return preprocess.run_shard(context, shard, work)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    from cxr_core.data import preprocess

    return preprocess.finalize(context, receipts)
