"""Which images are seen by which extractor, in what shards, and how their features and scores are read again."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.errors import UserError
from cxr_core.evaluation.cache import FeatureCache
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.metrics import Extractor
from cxr_core.evaluation.purpose import Purpose, purpose_of, shard_for, shards_for
from cxr_core.evaluation.settings import EvaluateStage, Extraction
from cxr_core.log import room_log
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.plan import Shard, fingerprint, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.roles import in_roles
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Estimate, Output
from cxr_core.runs.tables import read_npy, read_table
from cxr_core.seeds import unit_hash

log = room_log(__name__)

_WIDTH = 1024
"""Features that an estimate takes an image to have where nothing says how many."""
_INCEPTION_WIDTH = 2048

COLUMNS = ["image_id", "patient_id", "split", "view", "labels"]


def kinds_of(settings: EvaluateStage) -> list[str]:
    """The extractors that a stage needs: "judge" for faithfulness; for fidelity and a sweep that or "model"; and
    memorisation looks with a judge where there is one."""
    looks = settings.memorisation is not None and settings.inputs.judge is not None
    needs = {"judge": settings.faithfulness is not None or looks, "model": settings.features is not None}
    return [kind for kind, is_needed in needs.items() if is_needed]


def folder_of(kind: str, settings: EvaluateStage, inputs: Mapping[str, Path]) -> Path:
    """The folder of an extractor. Raises UserError if the judge's input is no classifier."""
    if kind == "judge":
        return final_checkpoint(inputs["judge"], "classifier")
    assert settings.features is not None
    return settings.features


def estimate_extraction(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images, shards, files and bytes at most: before the splits are known, every real image counts as one seen.

    Raises UserError where `fidelity.features` is no folder of a model.
    """
    sizes = [count_images(given) for given in in_roles(inputs, "real", "synthetic")]
    each = sum(-(-size // settings.extraction.shard_size) for size in sizes)
    num_images, num_shards, num_bytes, notes = 0, 0, 0, []
    for kind in kinds_of(settings):
        width = _WIDTH if kind == "judge" else _width(folder_of(kind, settings, {}))
        num_images, num_shards, num_bytes = (
            num_images + sum(sizes),
            num_shards + each,
            num_bytes + sum(sizes) * 4 * width,
        )
        notes.append(f"features of a {kind}: at most {sum(sizes)} images in {each} shards, {width} numbers an image")
    return Estimate(num_images, num_shards, 4 * num_shards + 3, num_bytes, notes)


def count_images(given: Estimate | Path) -> int:
    """Images of a Dataset, or at most so many of one that is not made yet."""
    return Dataset.open(given).info.num_images if isinstance(given, Path) else given.num_items


def _width(folder: Path) -> int:
    if folder.is_file():
        return _INCEPTION_WIDTH
    if not (folder / "config.json").is_file():
        raise UserError(
            "not a folder of a vision model: it has no config.json",
            where=str(folder),
            hint="correct `features` in the config: a folder, or the TorchScript file of Inception",
        )
    return int(read_json(folder / "config.json").get("hidden_size", _WIDTH))


def freeze_extraction(
    settings: Extraction, extractors: Sequence[Extractor], sources: Mapping[str, pd.DataFrame], work: Path
) -> list[Shard]:
    """Write what each extractor is and, for each source, its images; the shards are slices of these.

    No shard holds images of two splits: two stages that look at the same patients then have equal shards of them.
    """
    shards: list[Shard] = []
    for source, rows in sources.items():
        rows = rows.sort_values(["split", "image_id"])[COLUMNS]
        write_parquet(work / f"seen-{source}.parquet", pa.Table.from_pandas(rows, preserve_index=False))
        ends = rows.groupby("split").size().cumsum()
        parts = [
            Shard("", start + part.start, start + part.stop)
            for start, stop in pairwise([0, *ends])
            for part in slices(stop - start, settings.shard_size)
        ]
        shards += [
            shard_for(f"{extractor.kind}-{source}-{i:05d}", Purpose(extractor.kind, source), part.start, part.stop)
            for extractor in extractors
            for i, part in enumerate(parts)
        ]
    for extractor in extractors:
        write_json(_about(work, extractor.kind), {"format": 1, **extractor.model_dump(mode="json")})
    return shards


def real_images(rows: pd.DataFrame, num_train: int, seed: int, held_out: Sequence[str] = HELD_OUT) -> pd.DataFrame:
    """All images of the splits `held_out`, and `num_train` training images at most, whole patients by their hash."""
    train = rows[rows["split"] == "train"]
    sizes = train["patient_id"].value_counts()
    order = sorted(sizes.index, key=lambda name: (unit_hash(seed, "train reference", name), name))
    chosen = sizes[order].cumsum() <= num_train
    return rows[rows["split"].isin(held_out) | rows["patient_id"].isin(chosen.index[chosen])]


def extractor_of(plan_folder: Path, kind: str) -> Extractor:
    """The extractor as it was when the plan was frozen."""
    value = read_json(_about(plan_folder, kind))
    return Extractor.model_validate({name: entry for name, entry in value.items() if name != "format"})


def _about(plan_folder: Path, kind: str) -> Path:
    return plan_folder / f"extractor-{kind}.json"


def extract_shard(
    shard: Shard,
    settings: EvaluateStage,
    inputs: Mapping[str, Path],
    datasets: Mapping[str, Dataset],
    plan: Path,
    work: Path,
    cache: FeatureCache,
) -> Output:
    """Extract one shard of the plan in the folder `plan`, or take what another shard of this run has extracted.

    Its count `computed` says which: images, or 0. Raises UserError if the extractor is not the one of the plan.
    """
    from cxr_core.evaluation.features import extract, open_feature_model

    kind, source = purpose_of(shard)
    folder, planned = folder_of(kind, settings, inputs), extractor_of(plan, kind)
    feature_model = open_feature_model(kind, folder)
    if feature_model.about != planned:
        raise UserError(
            f"the feature extractor changed since the plan: sha256 {feature_model.about.digest}, "
            f"planned {planned.digest}",
            where=str(folder),
            hint="put the planned weights back, or start the run under another name",
        )
    ids = seen_rows(plan, source)["image_id"].iloc[shard.start : shard.stop]
    rows = datasets[source].rows.set_index("image_id", drop=False).loc[ids]
    batch = settings.extraction.batch_size
    pixels = rows["pixel_sha256"].tolist()
    key = fingerprint(
        about=planned.model_dump(), pixels=pixels, batch=batch, threads=settings.threads, on=feature_model.device
    )
    arrays, computed = cache.read(key), 0
    log.debug("features of shard %s are %s", shard.id, "computed" if arrays is None else "those kept before")
    if arrays is None:
        arrays, computed = extract(feature_model, datasets[source], rows, batch, settings.threads), len(ids)
        cache.write(key, arrays)
    for role, found in arrays.items():
        np.save(work / f"{role}.npy", found)
    write_parquet(work / "images.parquet", pa.table({"image_id": ids.tolist()}))
    content = {role: hashlib.sha256(found.tobytes()).hexdigest() for role, found in arrays.items()}
    digest = sha256_text(canonical_json([ids.tolist(), content]))
    paths = {role: work / f"{role}.npy" for role in arrays}
    return Output({**paths, "images": work / "images.parquet"}, digest, {"images": len(ids), "computed": computed})


def seen_rows(plan_folder: Path, source: str) -> pd.DataFrame:
    """The images of a source (`COLUMNS`) in the order of its shards."""
    return read_table(plan_folder / f"seen-{source}.parquet").to_pandas()


def read_extracted(
    stage_folder: Path, receipts: Sequence[Receipt], kind: str, source: str, role: str = "features"
) -> FeatureRows:
    """The committed features of a source, or a judge's scores (role "scores"), with the rows they belong to.

    `receipts` are the stage's.
    """
    rows = seen_rows(stage_folder / "plan", source)
    plan, made = StageFolder(stage_folder).plan(), {receipt.shard: receipt for receipt in receipts}
    mine = [made[shard.id] for shard in shards_for(plan.shards if plan else (), [kind], source) if shard.id in made]
    if not mine:
        about = extractor_of(stage_folder / "plan", kind)
        return FeatureRows(rows, np.empty((0, about.width if role == "features" else len(about.findings)), np.float32))
    return FeatureRows(rows, np.concatenate([read_npy(receipt.path(stage_folder, role)) for receipt in mine]))
