"""Utility: what synthetic images are worth for training; a shard per classifier."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output
from jobs.evaluating.classifiers import classifier_receipts, classifier_shards

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Classifiers to train; experiments with too few images are left out when this is frozen."""
    from cxr_core.evaluation.cohort import ARMS

    total, num_bytes, notes = 0, 0, []
    for entry in settings.utility:
        num = len(ARMS) * len(entry.seeds)
        total += num
        num_bytes += num * (2 * entry.each(entry.num_test) * 40 + 2000)
        n = 2 * entry.each(entry.num_images)
        arms = f"{n} real, {n // 2} real + {n // 2} synthetic, {n // 2} real, these twice"
        protocol = "as written (leaky)" if entry.is_leaky else "repaired"
        notes.append(
            f"{entry.finding}, {protocol}: {num} classifiers ({arms}; {len(entry.seeds)} seeds), {entry.epochs} epochs"
        )
    return Estimate(total, total, 3 * total, num_bytes, notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Choose every experiment's images; one shard per classifier."""
    from cxr_core.evaluation.cohort import check_findings, choose_cohort, write_cohorts

    entries = context.settings.utility
    named = [name for entry in entries for name in (entry.finding, entry.negatives)]
    real, synthetic = datasets["real"], datasets["synthetic"]
    check_findings(named, real, synthetic, where=f"stage {context.settings.name!r}, utility")
    cohorts = [choose_cohort(entry, real, synthetic, seed=context.seed) for entry in entries]
    write_cohorts(work, cohorts)
    experiments = [(cohort.arms, entry.seeds) for entry, cohort in zip(entries, cohorts, strict=True)]
    return classifier_shards("utility", experiments)


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Train and score one classifier."""
    from cxr_core.evaluation.cohort import read_cohorts
    from cxr_core.evaluation.utility import run_arm
    from cxr_core.seeds import derive_seed

    settings: EvaluateStage = context.settings
    i, arm, seed = (shard.extra[key] for key in ("entry", "arm", "seed"))
    cohort = read_cohorts(context.plan_folder)[i]
    # The same start and order in every arm, so that arms differ in their images alone.
    seed = derive_seed(context.seed, seed)
    return run_arm(
        settings.utility[i], cohort, arm, seed, datasets, work, threads=settings.threads, stage=settings.name
    )


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Join all scores into tables with intervals."""
    from cxr_core.evaluation.cohort import read_cohorts
    from cxr_core.evaluation.results import join
    from cxr_core.evaluation.utility import read_scores

    results = []
    for i, (entry, cohort) in enumerate(zip(context.settings.utility, read_cohorts(context.plan_folder), strict=True)):
        trained = classifier_receipts("utility", i, (cohort.arms, entry.seeds), receipts)
        scored = {which: read_scores(receipt, context.folder) for which, receipt in trained.items()}
        results.append(join(entry, cohort, scored, datasets["real"], datasets["synthetic"], seed=context.seed))
    return {"utility": tuple(results)}
