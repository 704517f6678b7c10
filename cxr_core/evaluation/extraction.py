"""Which images have their features extracted, in what shards, and how these are read again."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.errors import UserError
from cxr_core.evaluation.fidelity import HELD_OUT, Featured
from cxr_core.evaluation.metrics import Extractor
from cxr_core.evaluation.settings import Fidelity
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Estimate, Output
from cxr_core.seeds import unit_hash

_WIDTH = 1024
"""Features that an estimate takes an image to have where nothing says how many."""

COLUMNS = ["image_id", "patient_id", "split", "view", "labels"]


def estimate_features(settings: Fidelity, real: Estimate | Path, synthetic: Estimate | Path) -> Estimate:
    """Images, shards, files and bytes at most: before the splits are known, every real image counts as one seen.

    Raises UserError where `settings.features` is no folder of a model.
    """
    sizes = [_num_images(given) for given in (real, synthetic)]
    num_shards = sum(-(-size // settings.shard_size) for size in sizes)
    width = _WIDTH if settings.features == "judge" else _width(settings.features)
    note = f"features of at most {sum(sizes)} images in {num_shards} shards, {width} numbers an image"
    return Estimate(sum(sizes), num_shards, 4 * num_shards + 3, sum(sizes) * 4 * width, [note])


def _num_images(given: Estimate | Path) -> int:
    return Dataset.open(given).info.num_images if isinstance(given, Path) else given.num_items


def _width(folder: Path) -> int:
    if not (folder / "config.json").is_file():
        raise UserError(
            "not a folder of a vision model: it has no config.json",
            where=str(folder),
            mend="correct `fidelity.features` in the config",
        )
    return int(read_json(folder / "config.json").get("hidden_size", _WIDTH))


def freeze_features(
    settings: Fidelity, extractor: Extractor, datasets: Mapping[str, Dataset], seed: int, work: Path
) -> list[Shard]:
    """Write extractor.json and, for each source, the images by id; the shards are slices of these."""
    write_json(work / "extractor.json", {"format": 1, **extractor.model_dump(mode="json")})
    shards: list[Shard] = []
    for source, dataset in datasets.items():
        rows = dataset.rows if source == "synthetic" else real_images(dataset.rows, settings.num_train, seed)
        rows = rows.sort_values("image_id")[COLUMNS]
        write_parquet(work / f"features-{source}.parquet", pa.Table.from_pandas(rows, preserve_index=False))
        shards += slices(len(rows), settings.shard_size, prefix=f"features-{source}-")
    return shards


def real_images(rows: pd.DataFrame, num_train: int, seed: int) -> pd.DataFrame:
    """All held-out images, and those of training patients in the order of their hash, `num_train` images at most."""
    train = rows[rows["split"] == "train"]
    sizes = train["patient_id"].value_counts()
    order = sorted(sizes.index, key=lambda name: (unit_hash(seed, "train reference", name), name))
    chosen = sizes[order].cumsum() <= num_train
    return rows[rows["split"].isin(HELD_OUT) | rows["patient_id"].isin(chosen.index[chosen])]


def is_features(shard_id: str) -> bool:
    """Whether a shard of the evaluate stage extracts features."""
    return shard_id.startswith("features-")


def source_of(shard_id: str) -> str:
    """The Dataset whose images a shard of features sees: real or synthetic."""
    return shard_id.split("-")[1]


def extractor_of(plan_folder: Path) -> Extractor:
    """The extractor as it was when the plan was frozen."""
    value = read_json(plan_folder / "extractor.json")
    return Extractor.model_validate({name: entry for name, entry in value.items() if name != "format"})


def extract_shard(
    shard: Shard, settings: Fidelity, folder: Path, datasets: Mapping[str, Dataset], plan_folder: Path, work: Path
) -> Output:
    """Extract one shard. `folder` is that of the extractor.

    Raises UserError if the extractor is not the one of the plan.
    """
    from cxr_core.evaluation.features import extract, open_eye

    planned = extractor_of(plan_folder)
    eye = open_eye(planned.kind, folder)
    if eye.about != planned:
        raise UserError(
            f"the feature extractor changed since the plan: sha256 {eye.about.digest}, planned {planned.digest}",
            where=str(folder),
            mend="put the planned weights back, or start the run under another name",
        )
    dataset, ids = datasets[source_of(shard.id)], planned_rows(plan_folder, source_of(shard.id))["image_id"]
    ids = ids.iloc[shard.start : shard.stop]
    rows = dataset.rows.set_index("image_id", drop=False).loc[ids]
    paths = extract(eye, dataset, rows, settings.batch_size, work)
    write_parquet(work / "images.parquet", pa.table({"image_id": ids.tolist()}))
    content = {role: hashlib.sha256(np.load(path).tobytes()).hexdigest() for role, path in paths.items()}
    digest = sha256_text(canonical_json([ids.tolist(), content]))
    return Output({**paths, "images": work / "images.parquet"}, digest, {"images": len(ids)})


def planned_rows(plan_folder: Path, source: str) -> pd.DataFrame:
    """The images of a source (`COLUMNS`) in the order of its shards."""
    return pq.read_table(plan_folder / f"features-{source}.parquet").to_pandas()


def read_features(stage_folder: Path, receipts: Sequence[Receipt], source: str, role: str = "features") -> Featured:
    """The committed features of a source, or a judge's scores (role "scores"), with the rows they belong to.

    `receipts` are the stage's, in the order of its plan.
    """
    rows = planned_rows(stage_folder / "plan", source)
    mine = [r for r in receipts if is_features(r.shard) and source_of(r.shard) == source]
    if not mine:
        width = extractor_of(stage_folder / "plan").width
        return Featured(rows, np.empty((0, width), np.float32))
    return Featured(rows, np.concatenate([np.load(receipt.path(stage_folder, role)) for receipt in mine]))
