"""The evaluate job: a synthetic Dataset beside the real one, question by question (`jobs/evaluating`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.roles import places_in
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from jobs.evaluating import (
    Part,
    benefit,
    calibration,
    diversity,
    features,
    memorisation,
    pictures,
    position,
    sweep,
    utility,
)

PARTS: dict[str, Part] = {
    "pictures": pictures,
    "utility": utility,
    "benefit": benefit,
    "features": features,
    "calibration": calibration,
    "diversity": diversity,
    "memorisation": memorisation,
    "position": position,
}
"""In the order in which they are planned, run and measured."""
OF_A_SWEEP: dict[str, Part] = {"sweep": sweep}
"""Those of a stage that compares many points."""

BARRED = "barred.json"
"""Side file of the plan: test patients who are in no test. None where there are no such patients."""

_NUM_OWN_FILES = 6


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """All parts together. Raises UserError for a Dataset in a role that it does not fit."""
    _check_roles(inputs)
    parts = [part.estimate(settings, inputs) for part in _parts(settings).values()]
    return Estimate(
        sum(part.num_items for part in parts),
        sum(part.num_shards for part in parts),
        sum(part.num_files for part in parts) + _NUM_OWN_FILES,
        sum(part.num_bytes for part in parts),
        [note for part in parts for note in part.notes],
    )


def freeze(context: Context, work: Path) -> Draft:
    """The shards of every part; each is told whose it is."""
    datasets = _datasets(context, as_frozen=False)
    if barred := datasets["real"].barred:
        write_json(work / BARRED, {"format": 1, "patients": sorted(barred)})
    return Draft(
        [
            replace(shard, extra={**shard.extra, "part": name})
            for name, part in _parts(context.settings).items()
            for shard in part.shards(context, datasets, work)
        ]
    )


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Make one shard of the part it is of."""
    return _parts(context.settings)[shard.extra["part"]].run(context, shard, _datasets(context), work)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Ask every part what it measured and write metrics.json."""
    from cxr_core.evaluation.metrics import FILE, Metrics
    from cxr_core.runs.files import canonical_json, sha256_text
    from cxr_core.runs.run import StageFolder

    datasets = _datasets(context)
    by_id = {receipt.shard: receipt for receipt in receipts}
    drawn = [dataset for role, dataset in datasets.items() if role != "real"]
    found: dict[str, Any] = {"real": _compared([datasets["real"]]), "synthetic": _compared(drawn)}
    for part in _parts(context.settings).values():
        found |= part.measure(context, by_id, datasets, found)
    write_json(context.folder / FILE, Metrics(**found).model_dump(mode="json"))
    digests = canonical_json([[receipt.shard, receipt.digest] for receipt in receipts])
    plan = StageFolder(context.folder).plan()
    num_classifiers = sum(shard.extra.get("part") in ("utility", "benefit") for shard in (plan.shards if plan else ()))
    return {"digest": sha256_text(digests), "num_classifiers": num_classifiers}


def _parts(settings: EvaluateStage) -> Mapping[str, Part]:
    return OF_A_SWEEP if settings.sweep else PARTS


def _datasets(context: Context, *, as_frozen: bool = True) -> dict[str, Any]:
    """The Datasets by their places: one real, one synthetic, and of a sweep all synthetic ones.

    The real one comes without test patients from whom a generator of synthetic ones, their gate or a judge learnt:
    as the plan says, since shards may run where the key that tells who they are is not.
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.data.pseudonyms import who
    from cxr_core.generation.series import barred_patients
    from jobs.learnt import moved_for_judges

    places = places_in(context.inputs, "real", "synthetic")
    datasets = {place: Dataset.open(context.inputs[place]).given_as(place) for place in places}
    frozen = context.plan_folder / BARRED
    if as_frozen and frozen.is_file():
        barred = frozenset(read_json(frozen)["patients"])
    else:
        judges = moved_for_judges(context.inputs)
        names = [barred_patients(dataset) for role, dataset in datasets.items() if role != "real"]
        barred = who(frozenset(judges.moved if judges else ()).union(*names), datasets["real"])
    return datasets | {"real": datasets["real"].barring(barred)}


def _check_roles(inputs: Mapping[str, Estimate | Path]) -> None:
    """Of Datasets that are there already; those of earlier stages are what their stage makes."""
    from cxr_core.data.dataset import Dataset

    for place in places_in(inputs, "real", "synthetic"):
        if isinstance(given := inputs[place], Path):
            Dataset.open(given).given_as(place)


def _compared(datasets: Sequence[Any]) -> Any:
    """What is said of a Dataset, or of several together."""
    from cxr_core.evaluation.metrics import Compared
    from cxr_core.generation.series import made_series
    from cxr_core.runs.files import canonical_json, sha256_text

    infos = [dataset.info for dataset in datasets]
    digests = [info.digest for info in infos]
    return Compared(
        digest=digests[0] if len(infos) == 1 else sha256_text(canonical_json(digests)),
        num_images=sum(info.num_images for info in infos),
        size=min(info.size for info in infos),
        drawn_by=tuple(dict.fromkeys(one.words for dataset in datasets for one in made_series(dataset))),
        num_barred=len(datasets[0].barred),
    )
