"""Benefit: what synthetic images add to real ones; a shard per classifier of an arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.log import room_log
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output
from jobs.evaluating.classifiers import Experiment, classifier_receipts, classifier_shards

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset
    from cxr_core.evaluation.benefit.cohort import BenefitCohort
    from cxr_core.evaluation.benefit.settings import Benefit

log = room_log(__name__)


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Classifiers to train and scores to keep; arms with too few images are left out when this is frozen."""
    if not settings.benefit:
        return Estimate(0, 0, 0, 0)
    from cxr_core.evaluation.extraction import count_images

    total, num_bytes, notes = 0, 0, []
    num_real = count_images(inputs["real"])
    for entry in settings.benefit:
        num = len(entry.arm_names) * len(entry.seeds)
        total += num
        num_bytes += num * num_real * (4 * len(entry.findings) + 8)
        notes.append(
            f"benefit, {', '.join(entry.findings)}: {num} classifiers ({', '.join(entry.arm_names)}; "
            f"{len(entry.seeds)} seeds) of {entry.learner.steps} steps with {entry.learner.batch_size} images"
        )
        if entry.learner.image_size:
            most = (entry.num_real or num_real) * (1 + max(entry.add_percent, default=0) / 100)
            size = most * entry.learner.image_size**2 / 1e9
            notes.append(f"benefit: a classifier holds its training images in memory, at most {size:.1f} GB")
    return Estimate(total, total, 3 * total, num_bytes, notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Choose the images of every arm; one shard per classifier."""
    from cxr_core.evaluation.adjudicated import labelled, unknown_ids
    from cxr_core.evaluation.benefit.cohort import choose_benefit, write_benefit
    from cxr_core.evaluation.cohort import check_findings

    entries, real, synthetic = context.settings.benefit, datasets["real"], datasets["synthetic"]
    named = [name for entry in entries for name in entry.findings]
    check_findings(named, real, synthetic, where=f"stage {context.settings.name!r}, benefit")
    for entry in entries:
        if entry.adjudicated:  # hours of training must not end at a table that cannot be read
            labelled(entry.adjudicated, real.findings, real.of_split(entry.split)["image_id"])
            for line in unknown_ids(entry.adjudicated, real.findings, real.rows["image_id"]):
                log.warning("%s", line)
    cohorts = [choose_benefit(entry, real, synthetic, context.seed) for entry in entries]
    write_benefit(work, cohorts)
    return classifier_shards("benefit", [_experiment(*each) for each in zip(entries, cohorts, strict=True)])


def _experiment(entry: "Benefit", cohort: "BenefitCohort") -> Experiment[str]:
    return [arm for arm in entry.arm_names if arm not in cohort.not_run], entry.seeds


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Train and score one classifier."""
    from cxr_core.evaluation.benefit.cohort import read_benefit
    from cxr_core.evaluation.benefit.learn import learn_arm
    from cxr_core.seeds import derive_seed

    settings: EvaluateStage = context.settings
    i, arm, seed = (shard.extra[key] for key in ("entry", "arm", "seed"))
    return learn_arm(
        settings.benefit[i],
        read_benefit(context.plan_folder)[i],
        arm,
        # The same start and order in every arm, so that arms differ in their images alone.
        derive_seed(context.seed, seed),
        datasets,
        work,
        num_threads=settings.threads,
        where=f"stage {settings.name!r}",
    )


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Join all scores into tables with intervals."""
    from cxr_core.evaluation.benefit.cohort import read_benefit
    from cxr_core.evaluation.benefit.measure import measure_benefit
    from cxr_core.evaluation.benefit.scores import read_scores

    results = []
    for i, (entry, cohort) in enumerate(zip(context.settings.benefit, read_benefit(context.plan_folder), strict=True)):
        trained = classifier_receipts("benefit", i, _experiment(entry, cohort), receipts)
        learnt = {which: read_scores(receipt, context.folder) for which, receipt in trained.items()}
        results.append(measure_benefit(entry, cohort, learnt, datasets["real"], datasets["synthetic"], context.seed))
    return {"benefit": tuple(results)}
