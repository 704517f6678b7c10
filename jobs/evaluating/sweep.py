"""A sweep: every series of every synthetic Dataset beside one set of validation patients, and one recommended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.purpose import ALIKE, EXTRACTORS, purpose_of, shards_for
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output
from jobs.evaluating import diversity, features, memorisation

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset
    from cxr_core.evaluation.featured import FeatureRows
    from cxr_core.evaluation.sweep.measure import PointEvaluator
    from cxr_core.evaluation.sweep.results import Point, PointResult, SweepAlarm, SweepResult


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images that extractors see, and pairs; a point is counted as a Dataset where the Dataset is not made yet."""
    from cxr_core.evaluation.extraction import estimate_extraction

    seen, copies = estimate_extraction(settings, inputs), memorisation.estimate(settings, inputs)
    num_alike = len(inputs)
    num_shards = seen.num_shards + num_alike + copies.num_shards
    return Estimate(
        num_shards,
        num_shards,
        seen.num_files + 4 * num_alike + copies.num_files,
        seen.num_bytes + copies.num_bytes,
        [
            *seen.notes,
            "points are compared with validation patients; their real features are computed once",
            *copies.notes,
        ],
    )


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Real images once, and the images of each point; pairs of images of one prompt; and searches for copies."""
    from cxr_core.evaluation.cohort import check_findings
    from cxr_core.evaluation.sweep.points import points_of, rows_of
    from cxr_core.runs.files import write_json

    settings: EvaluateStage = context.settings
    assert settings.sweep is not None
    real = datasets["real"]
    for role, dataset in datasets.items():
        check_findings([], real, dataset, where=f"stage {settings.name!r}, inputs.{role}")
    points = points_of(datasets, _last_step)
    listed = [{"role": role, **point.model_dump(mode="json")} for role, point in points]
    write_json(work / "points.json", {"format": 1, "points": listed})
    drawn = {point.id: rows_of(datasets[role], point) for role, point in points}
    used = [datasets[role] for role in dict.fromkeys(role for role, _ in points)]
    sources = {"real": features.real_seen(settings, real), **drawn}
    extracted = features.extraction_shards(context, sources, used, work)
    alike = diversity.alike_shards(real.of_split("val"), drawn, settings.sweep.diversity.num_ms_ssim_groups, work)
    copies = memorisation.copy_shards(context, sources, work) if settings.memorisation else []
    return [*extracted, *alike, *copies]


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Extract features of some images, compare pairs, or look for copies."""
    kind = purpose_of(shard).kind
    part = diversity if kind == ALIKE else features if kind in EXTRACTORS else memorisation
    return part.run(context, shard, _by_source(context, datasets), work)


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Every point on validation patients, the rule, and the recommended point on test patients if asked for."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(context.settings.threads):
        return {"sweep": _measure(context, receipts, datasets)}


def _measure(context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"]) -> "SweepResult":
    from cxr_core.evaluation.sweep.choose import alarms, choose
    from cxr_core.evaluation.sweep.results import SweepResult
    from cxr_core.runs.run import StageFolder

    sweep, sources = context.settings.sweep, _by_source(context, datasets)
    bench = _bench(context, receipts, datasets["real"])
    points = [point for _, point in _points(context)]
    results = [_result(bench, context, receipts, sources, point) for point in points]
    asked = context.settings.memorisation
    if asked:
        results = _with_copies(context, receipts, results)
    best = choose(results, sweep.select.by)
    test = None
    if sweep.test and best:
        drawn = _seen(context, receipts, best.point.id)
        test = bench.on_test(drawn, sources[best.point.id].info.size)
    plan, kind = StageFolder(context.folder).plan(), bench.extractor.kind
    real = [receipts[shard.id] for shard in shards_for(plan.shards if plan else (), [kind], "real")]
    return SweepResult(
        by=sweep.select.by,
        points=tuple(results),
        chosen=best.point.id if best else None,
        rising=sweep.select.copies.rising if asked else None,
        alarms=alarms(results, best, _rises(datasets)),
        test=test,
        num_real_computed=sum(r.counts["computed"] for r in real)
        + sum(r.counts.get(f"{kind}-real", 0) for r in receipts.values()),
        num_real_seen=sum(receipt.counts["images"] for receipt in real),
    )


def _with_copies(
    context: Context, receipts: Mapping[str, Receipt], results: Sequence["PointResult"]
) -> list["PointResult"]:
    """The points with what the search for copies says of each."""
    from cxr_core.evaluation.sweep.copies import judge_copies

    points = [result.point for result in results]
    found = memorisation.measure_copies(context, receipts, [point.id for point in points])
    judged = judge_copies(list(zip(points, found, strict=True)), context.settings.sweep.select.copies)
    return [result.model_copy(update={"copies": copies}) for result, copies in zip(results, judged, strict=True)]


def _bench(context: Context, receipts: Mapping[str, Receipt], real: "Dataset") -> "PointEvaluator":
    """What all points are measured against."""
    from cxr_core.evaluation.extraction import extractor_of
    from cxr_core.evaluation.sweep.measure import PointEvaluator

    extractor = extractor_of(context.plan_folder, _kind(context.settings))
    seen = _seen(context, receipts, "real")
    return PointEvaluator(seen, extractor, real.info.size, real.findings, context.settings.sweep, context.seed)


def _result(
    bench: "PointEvaluator",
    context: Context,
    receipts: Mapping[str, Receipt],
    sources: Mapping[str, "Dataset"],
    point: "Point",
) -> "PointResult":
    """One point beside validation patients; of a judge that failed its trial no number."""
    judged = _judged(context, receipts, sources["real"], point.id)
    failed = bench.extractor.kind == "judge" and not judged.passes
    names = {"real": "real", "synthetic": point.id}
    return bench.point(
        point,
        _seen(context, receipts, point.id),
        sources[point.id].info.size,
        {side: diversity.read_alike(context, receipts, source) for side, source in names.items()},
        diversity.alike_size(sources),
        judged,
        features.NO_JUDGE if failed else None,
    )


def _kind(settings: EvaluateStage) -> str:
    """The extractor whose features are compared."""
    return "model" if settings.features else "judge"


def _seen(context: Context, receipts: Mapping[str, Receipt], source: str) -> "FeatureRows":
    from cxr_core.evaluation.extraction import read_extracted

    return read_extracted(context.folder, list(receipts.values()), _kind(context.settings), source)


def _judged(context: Context, receipts: Mapping[str, Receipt], real: "Dataset", point: str) -> Any:
    """What the judge says of a point's images, after its trial on validation patients; None without a judge."""
    if context.settings.faithfulness is None:
        return None
    return features.judged(context, list(receipts.values()), real, point)


def _points(context: Context) -> list[tuple[str, "Point"]]:
    """(role, point) as they were when the plan was frozen."""
    from cxr_core.evaluation.sweep.results import Point
    from cxr_core.runs.files import read_json

    listed = read_json(context.plan_folder / "points.json")["points"]
    return [(entry.pop("role"), Point.model_validate(entry)) for entry in listed]


def _by_source(context: Context, datasets: Mapping[str, "Dataset"]) -> dict[str, "Dataset"]:
    """The Dataset in which each source of shards lies."""
    return {"real": datasets["real"], **{point.id: datasets[role] for role, point in _points(context)}}


def _last_step(dataset: "Dataset", role: str) -> int | None:
    """The last training step of a model that drew a Dataset of a run; None where it cannot be told."""
    from cxr_core.models.checkpoints import INDEX, read_checkpoints

    trained = _trained(dataset, role)
    return read_checkpoints(trained)[-1].step if trained and (trained / INDEX).is_file() else None


def _rises(datasets: Mapping[str, "Dataset"]) -> list["SweepAlarm"]:
    """What the train stages of the points' models say of their validation losses."""
    from cxr_core.evaluation.sweep.results import SweepAlarm
    from cxr_core.generation.series import made_series
    from cxr_core.runs.door import BadFiles
    from cxr_core.training.overfit import overfit_of

    roles = [(dataset, one.role) for dataset in datasets.values() for one in made_series(dataset)]
    stages = dict.fromkeys(trained for dataset, role in roles if (trained := _trained(dataset, role)))
    found = {stage.name: overfit_of(stage, BadFiles()) for stage in stages}
    return [
        SweepAlarm(kind="loss", stage=name, rise=one.rise, best_step=one.best_step)
        for name, one in found.items()
        if one
    ]


def _trained(dataset: "Dataset", role: str) -> Path | None:
    """What the stage that drew a Dataset names in a role of its inputs."""
    from jobs.inputs import input_of

    return input_of(dataset.folder, role)
