"""The evaluate job: pictures, utility and fidelity of a synthetic Dataset beside the real one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output

_PICTURES = "pictures"
_PICTURE_BYTES = 300_000
_NO_JUDGE = "the judge, whose features these are, failed its trial on held-out real patients for every finding"


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Classifiers to train and pictures to draw; experiments with too few images are left out when this is frozen."""
    from cxr_core.evaluation.cohort import ARMS

    num_classifiers = [len(ARMS) * len(entry.seeds) for entry in settings.utility]
    num_pictures = len(settings.grids.findings) or 6
    num_bytes = num_pictures * _PICTURE_BYTES
    notes = []
    for num, entry in zip(num_classifiers, settings.utility, strict=True):
        num_bytes += num * (2 * entry.each(entry.num_test) * 40 + 2000)
        n = 2 * entry.each(entry.num_images)
        arms = f"{n} real, {n // 2} real + {n // 2} synthetic, {n // 2} real, these twice"
        protocol = "as written (leaky)" if entry.is_leaky else "repaired"
        notes.append(
            f"{entry.finding}, {protocol}: {num} classifiers ({arms}; {len(entry.seeds)} seeds), {entry.epochs} epochs"
        )
    total = sum(num_classifiers) + 1
    num_files = 3 * total + num_pictures + 6
    if settings.fidelity or settings.faithfulness:
        from cxr_core.evaluation.extraction import estimate_extraction

        seen = estimate_extraction(settings, inputs["real"], inputs["synthetic"])
        notes += seen.notes
        total, num_files, num_bytes = total + seen.num_shards, num_files + seen.num_files, num_bytes + seen.num_bytes
    return Estimate(total, total, num_files, num_bytes, notes)


def freeze(context: Context, work: Path) -> Draft:
    """Choose every experiment's images; one shard per classifier, one for the pictures, and those of features."""
    from cxr_core.evaluation.cohort import check_findings, choose_cohort, write_cohorts
    from cxr_core.evaluation.pictures import findings_shown
    from cxr_core.runs.files import write_json

    settings: EvaluateStage = context.settings
    datasets = _datasets(context)
    if "judge" in context.inputs:
        from jobs.judges import check_judge

        check_judge(context.inputs["judge"], datasets["synthetic"])
    named = [
        *settings.grids.findings,
        *(name for entry in settings.utility for name in (entry.finding, entry.negatives)),
    ]
    check_findings(named, datasets["real"], datasets["synthetic"], where=f"stage {settings.name!r}")
    cohorts = [choose_cohort(entry, **datasets, seed=context.seed) for entry in settings.utility]
    write_cohorts(work, cohorts)
    write_json(work / "grids.json", {"format": 1, "findings": findings_shown(settings.grids, datasets["synthetic"])})
    tasks: list[tuple[str, dict[str, Any]]] = [(_PICTURES, {})]
    for i, (entry, cohort) in enumerate(zip(settings.utility, cohorts, strict=True)):
        for arm in cohort.arms:
            tasks += [(_shard_id(i, arm, seed), {"entry": i, "arm": arm, "seed": seed}) for seed in entry.seeds]
    shards = [Shard(name, i, i + 1, extra) for i, (name, extra) in enumerate(tasks)]
    return Draft([*shards, *_extraction_shards(context, datasets, work)])


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Draw the pictures, train and score one classifier, or extract the features of some images."""
    from cxr_core.evaluation.cohort import read_cohorts
    from cxr_core.evaluation.extraction import is_extraction
    from cxr_core.evaluation.pictures import draw_grids
    from cxr_core.evaluation.utility import run_arm
    from cxr_core.runs.files import read_json
    from cxr_core.seeds import derive_seed

    settings: EvaluateStage = context.settings
    datasets = _datasets(context)
    if shard.id == _PICTURES:
        names = read_json(context.plan_folder / "grids.json")["findings"]
        return draw_grids(names, settings.grids, **datasets, seed=context.seed, work=work)
    if is_extraction(shard.id):
        return _extract(context, shard, datasets, work)
    i, arm, seed = (shard.extra[key] for key in ("entry", "arm", "seed"))
    cohort = read_cohorts(context.plan_folder)[i]
    # The same start and order in every arm, so that arms differ in their images alone.
    seed = derive_seed(context.seed, seed)
    return run_arm(
        settings.utility[i], cohort, arm, seed, datasets, work, threads=settings.threads, stage=settings.name
    )


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Join all scores into tables with intervals and write metrics.json."""
    from cxr_core.evaluation.cohort import read_cohorts
    from cxr_core.evaluation.metrics import FILE, Metrics
    from cxr_core.evaluation.pictures import committed_grids
    from cxr_core.evaluation.results import join
    from cxr_core.evaluation.utility import read_scores
    from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json

    settings: EvaluateStage = context.settings
    datasets = _datasets(context)
    by_id = {receipt.shard: receipt for receipt in receipts}
    utility = []
    for i, (entry, cohort) in enumerate(zip(settings.utility, read_cohorts(context.plan_folder), strict=True)):
        scored = {
            (arm, seed): read_scores(by_id[_shard_id(i, arm, seed)], context.folder)
            for arm in cohort.arms
            for seed in entry.seeds
        }
        utility.append(join(entry, cohort, scored, **datasets, seed=context.seed))
    pictures = by_id[_PICTURES]
    listed = read_json(pictures.path(context.folder, "list"))["grids"]
    faithfulness = _faithfulness(context, receipts, datasets)
    metrics = Metrics(
        **{name: _compared(dataset) for name, dataset in datasets.items()},
        utility=tuple(utility),
        grids=committed_grids(listed, pictures),
        faithfulness=faithfulness,
        fidelity=_fidelity(context, receipts, datasets, faithfulness),
    )
    write_json(context.folder / FILE, metrics.model_dump(mode="json"))
    digests = canonical_json([[receipt.shard, receipt.digest] for receipt in receipts])
    num_classifiers = sum(receipt.shard.startswith("utility") for receipt in receipts)
    return {"digest": sha256_text(digests), "num_classifiers": num_classifiers}


def _extraction_shards(context: Context, datasets: Mapping[str, Any], work: Path) -> Sequence[Shard]:
    from cxr_core.evaluation.extraction import folder_of, freeze_extraction, kinds_of

    settings: EvaluateStage = context.settings
    kinds = kinds_of(settings)
    if not kinds:
        return ()
    from cxr_core.evaluation.features import open_eye

    about = [open_eye(kind, folder_of(kind, settings, context.inputs)).about for kind in kinds]
    return freeze_extraction(settings.extraction, about, datasets, context.seed, work)


def _extract(context: Context, shard: Shard, datasets: Mapping[str, Any], work: Path) -> Output:
    from cxr_core.evaluation.extraction import extract_shard
    from cxr_core.training.engine import threads

    settings: EvaluateStage = context.settings
    with threads(settings.threads):
        return extract_shard(shard, settings, context.inputs, datasets, context.plan_folder, work)


def _fidelity(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, Any], trial: Any) -> Any:
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.fidelity import measure

    settings: EvaluateStage = context.settings
    if settings.fidelity is None:
        return None
    kind = "judge" if settings.fidelity.features == "judge" else "model"
    real, synthetic = (read_extracted(context.folder, receipts, kind, source) for source in datasets)
    sizes = (datasets["real"].info.size, datasets["synthetic"].info.size)
    with threadpool_limits(settings.threads):
        return measure(
            real,
            synthetic,
            extractor_of(context.plan_folder, kind),
            sizes,
            datasets["real"].findings,
            settings.fidelity.resamples,
            context.seed,
            withheld=_NO_JUDGE if kind == "judge" and not trial.passes else None,
        )


def _faithfulness(context: Context, receipts: Sequence[Receipt], datasets: Mapping[str, Any]) -> Any:
    from cxr_core.evaluation.extraction import extractor_of, read_extracted
    from cxr_core.evaluation.faithfulness import judge_synthetic

    settings: EvaluateStage = context.settings
    if settings.faithfulness is None:
        return None
    real, synthetic = (read_extracted(context.folder, receipts, "judge", source, "scores") for source in datasets)
    return judge_synthetic(
        real.rows,
        real.features,
        synthetic.rows,
        synthetic.features,
        extractor_of(context.plan_folder, "judge").findings,
        datasets["real"].findings,
        settings.faithfulness,
        context.seed,
    )


def _shard_id(entry: int, arm: str, seed: int) -> str:
    return f"utility{entry:02d}-{arm}-{seed}"


def _datasets(context: Context) -> dict[str, Any]:
    """The two Datasets, the real one without test patients whom the synthetic one's generator learnt from."""
    from cxr_core.data.dataset import Dataset
    from cxr_core.models.training_data import TrainingData

    real, synthetic = (Dataset.open(context.inputs[name]) for name in ("real", "synthetic"))
    learnt = synthetic.info.about.get("training_data")
    barred = TrainingData.model_validate(learnt).barred if learnt else frozenset()
    return {"real": real.barring(barred), "synthetic": synthetic}


def _compared(dataset: Any) -> Any:
    from cxr_core.evaluation.metrics import Compared

    about = {"digest": dataset.info.digest, "num_images": dataset.info.num_images, "size": dataset.info.size}
    return Compared(**about, num_barred=len(dataset.barred))
