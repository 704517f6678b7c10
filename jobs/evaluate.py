"""The evaluate job: a synthetic Dataset beside the real one, question by question (`jobs/evaluating`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from jobs.evaluating import Part, features, pictures, position, utility

PARTS: dict[str, Part] = {"pictures": pictures, "utility": utility, "features": features, "position": position}
"""In the order in which they are planned, run and measured."""

_NUM_OWN_FILES = 6


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """All parts together."""
    parts = [part.estimate(settings, inputs) for part in PARTS.values()]
    return Estimate(
        sum(part.num_items for part in parts),
        sum(part.num_shards for part in parts),
        sum(part.num_files for part in parts) + _NUM_OWN_FILES,
        sum(part.num_bytes for part in parts),
        [note for part in parts for note in part.notes],
    )


def freeze(context: Context, work: Path) -> Draft:
    """The shards of every part; each is told whose it is."""
    datasets = _datasets(context)
    return Draft(
        [
            replace(shard, extra={**shard.extra, "part": name})
            for name, part in PARTS.items()
            for shard in part.shards(context, datasets, work)
        ]
    )


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Make one shard of the part it is of."""
    return PARTS[shard.extra["part"]].run(context, shard, _datasets(context), work)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Ask every part what it measured and write metrics.json."""
    from cxr_core.evaluation.metrics import FILE, Metrics
    from cxr_core.runs.files import canonical_json, sha256_text, write_json

    datasets = _datasets(context)
    by_id = {receipt.shard: receipt for receipt in receipts}
    found: dict[str, Any] = {name: _compared(dataset) for name, dataset in datasets.items()}
    for part in PARTS.values():
        found |= part.measure(context, by_id, datasets, found)
    write_json(context.folder / FILE, Metrics(**found).model_dump(mode="json"))
    digests = canonical_json([[receipt.shard, receipt.digest] for receipt in receipts])
    num_classifiers = sum(receipt.shard.startswith("utility") for receipt in receipts)
    return {"digest": sha256_text(digests), "num_classifiers": num_classifiers}


def _datasets(context: Context) -> dict[str, Any]:
    """The two Datasets, the real one without test patients whom the synthetic one's generator learnt from."""
    from cxr_core.data.dataset import Dataset
    from cxr_core.generation.series import barred_patients

    real, synthetic = (Dataset.open(context.inputs[name]) for name in ("real", "synthetic"))
    return {"real": real.barring(barred_patients(synthetic)), "synthetic": synthetic}


def _compared(dataset: Any) -> Any:
    from cxr_core.evaluation.metrics import Compared

    about = {"digest": dataset.info.digest, "num_images": dataset.info.num_images, "size": dataset.info.size}
    return Compared(**about, num_barred=len(dataset.barred))
