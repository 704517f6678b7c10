"""Diversity: how real and synthetic images cover each other, and how alike images of one prompt are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.purpose import ALIKE, Purpose, purpose_of, shard_for
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output
from jobs.evaluating.features import NO_JUDGE

if TYPE_CHECKING:
    import pandas as pd

    from cxr_core.data.dataset import Dataset


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Two shards of pairs, where fidelity is asked for."""
    num_shards = 2 if settings.fidelity else 0
    return Estimate(num_shards, num_shards, 4 * num_shards, 10_000 * num_shards)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Which images are compared with each other."""
    settings: EvaluateStage = context.settings
    if settings.fidelity is None:
        return ()
    from cxr_core.evaluation.fidelity import HELD_OUT

    real = datasets["real"].rows
    sources = {"synthetic": datasets["synthetic"].rows}
    return alike_shards(
        real[real["split"].isin(HELD_OUT)], sources, settings.fidelity.diversity.num_ms_ssim_groups, work
    )


def alike_shards(
    held_out: "pd.DataFrame", sources: Mapping[str, "pd.DataFrame"], fours: int, work: Path
) -> list[Shard]:
    """One shard a source of synthetic rows, and one of real images with the labels and views of the first source."""
    from cxr_core.evaluation.diversity.alike import cell_groups, prompt_groups, write_groups

    groups = {source: prompt_groups(rows, fours, 0) for source, rows in sources.items()}
    groups = {"real": cell_groups(held_out, next(iter(groups.values())), 0), **groups}
    for source, table in groups.items():
        write_groups(work / f"alike-{source}.parquet", table)
    return [shard_for(_shard_id(source), Purpose(ALIKE, source), i, i + 1) for i, source in enumerate(groups)]


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Compare the pairs of one source."""
    from cxr_core.evaluation.diversity.alike import alike_shard, read_groups
    from cxr_core.training.engine import threads

    source = purpose_of(shard).source
    groups = read_groups(context.plan_folder / f"alike-{source}.parquet")
    with threads(context.settings.threads):
        return alike_shard(groups, datasets[source], alike_size(datasets), work)


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Diversity of all images, and finding by finding."""
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.diversity.measure import measure_diversity
    from cxr_core.evaluation.extraction import read_extracted
    from cxr_core.evaluation.fidelity import HELD_OUT

    settings: EvaluateStage = context.settings
    if settings.fidelity is None:
        return {}
    kind = "model" if settings.features else "judge"
    real, synthetic = (
        read_extracted(context.folder, list(receipts.values()), kind, source) for source in ("real", "synthetic")
    )
    with threadpool_limits(settings.threads):
        result = measure_diversity(
            real.where(real.rows["split"].isin(HELD_OUT)),
            synthetic,
            {source: read_alike(context, receipts, source) for source in ("real", "synthetic")},
            settings.fidelity.diversity,
            size=alike_size(datasets),
            seed=context.seed,
            findings=datasets["real"].findings,
            withheld=NO_JUDGE if kind == "judge" and not found["faithfulness"].passes else None,
        )
    return {"diversity": result}


def alike_size(datasets: Mapping[str, "Dataset"]) -> int:
    """Pixels a side at which images are compared: the smallest that any Dataset has."""
    return min(dataset.info.size for dataset in datasets.values())


def read_alike(context: Context, receipts: Mapping[str, Receipt], source: str) -> "pd.DataFrame":
    """The MS-SSIM of a source's groups, as its shard committed them."""
    from cxr_core.evaluation.diversity.alike import read_groups

    return read_groups(receipts[_shard_id(source)].path(context.folder, "alike"))


def _shard_id(source: str) -> str:
    """The name of a source's shard, under which its receipt is found."""
    return f"alike-{source}"
