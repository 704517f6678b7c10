"""The invert job: latents with which a PG-GAN draws real images of given findings, as a latent bank."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.png import encode_grey
from cxr_core.data.sheet import contact_sheet
from cxr_core.errors import UserError
from cxr_core.generation.bank_folder import write_bank
from cxr_core.generation.bank_settings import InvertStage
from cxr_core.generation.requests import combination
from cxr_core.models.checkpoints import final_checkpoint, weights_sha256
from cxr_core.models.pggan_folder import read_info
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_atomic, write_json
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.runs.tables import read_table
from cxr_core.training.data_order import some

_BYTES_AN_IMAGE = 3000
_PICTURE_BYTES = 300_000
_SHOWN = 8
"""Images of a shard on its picture."""
_TILE = 128


def estimate(settings: InvertStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """At most: how many images of a combination there are is known once the Dataset is there."""
    num_images = settings.images_each * len(settings.findings)
    num_shards = -(-num_images // settings.shard_size)
    num_bytes = num_images * _BYTES_AN_IMAGE + num_shards * _PICTURE_BYTES
    return Estimate(num_images, num_shards, 3 * num_shards + 8, num_bytes, ["at most this"])


def freeze(context: Context, work: Path) -> Draft:
    """Write rows.parquet, the images whose latents are found, and model.json, whose they are."""
    settings: InvertStage = context.settings
    dataset, folder = Dataset.open(context.inputs["dataset"]), _model(context)
    info, where = read_info(folder), f"stage {settings.name!r}"
    if dataset.info.size != info.size:
        what = f"the images have {dataset.info.size} pixels a side, but the PG-GAN draws {info.size}"
        raise UserError(what, where=str(dataset.folder), hint="give the images that it learnt from")
    if settings.method == "features" and info.latent_width != info.widths[0]:
        what = f"features have {info.widths[0]} numbers, but latents {info.latent_width}"
        raise UserError(what, where=f"{where}, method", hint="set method: direct")
    chosen = _chosen(dataset, settings, context.seed)
    columns = ["image_id", "patient_id", "labels"]
    write_parquet(work / "rows.parquet", pa.Table.from_pandas(chosen[columns], preserve_index=False))
    write_json(work / "model.json", {"format": 1, "weights_sha256": weights_sha256(folder)})
    return Draft(slices(len(chosen), settings.shard_size))


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Find the latents of the shard's images."""
    from cxr_core.generation.inversion import Inverter
    from cxr_core.generation.pggan import open_pggan
    from cxr_core.training.engine import threads

    settings: InvertStage = context.settings
    dataset = Dataset.open(context.inputs["dataset"])
    inverter = Inverter(open_pggan(_model(context)), settings, context.seed)
    rows = read_table(context.plan_folder / "rows.parquet").to_pandas().iloc[shard.start : shard.stop]
    of_dataset = dataset.rows.set_index("image_id", drop=False)
    images = dataset.images(of_dataset.loc[rows["image_id"]])
    with threads(settings.threads):
        batches = range(0, len(rows), settings.batch_size)
        parts = [inverter.find(images[start : start + settings.batch_size]) for start in batches]
        latents, errors = (np.concatenate([getattr(part, name) for part in parts]) for name in ("latents", "errors"))
        picture = _picture(images[:_SHOWN], inverter.drawn(latents[:_SHOWN]))
    found = rows.assign(error=errors, latent=list(latents))
    write_parquet(work / "latents.parquet", pa.Table.from_pandas(found, preserve_index=False))
    write_atomic(work / "picture.png", picture)
    digest = sha256_text(canonical_json([rows["image_id"].tolist(), latents.tobytes().hex()]))
    paths = {"latents": work / "latents.parquet", "picture": work / "picture.png"}
    return Output(paths, digest, {"images": len(rows)})


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write the bank."""
    settings: InvertStage = context.settings
    rows = pd.concat([read_table(receipt.path(context.folder, "latents")).to_pandas() for receipt in receipts])
    facts = {
        "digest": sha256_text(canonical_json([receipt.digest for receipt in receipts])),
        "method": settings.method,
        "num_images": len(rows),
        "mean_error": float(rows["error"].mean()),
    }
    dataset = Dataset.open(context.inputs["dataset"])
    model = read_json(context.plan_folder / "model.json")["weights_sha256"]
    moved = dataset.info.about.get("boxed_split")
    about = {**facts, "model": model, "dataset": dataset.info.digest}
    write_bank(context.folder, rows, {**about, **({"boxed_split": moved} if moved else {})})
    return facts


def _picture(real: np.ndarray, drawn: np.ndarray) -> bytes:
    """A PNG with real images above what their latents draw."""
    scale = max(1, _TILE // real.shape[-1])
    return encode_grey(contact_sheet(np.concatenate([real, drawn]), (), columns=len(real), scale=scale))


def _model(context: Context) -> Path:
    return final_checkpoint(context.inputs["gan"], "pggan")


def _chosen(dataset: Dataset, settings: InvertStage, seed: int) -> pd.DataFrame:
    """Training images of each combination, by image id. Raises UserError for one that none has."""
    train, where, parts = dataset.of_split("train"), f"stage {settings.name!r}, findings", []
    for name in settings.findings:
        labels = combination(name, dataset.findings, where=where).labels
        found = train[train["labels"] == labels]
        if found.empty:
            raise UserError(f"no training image has {name} and nothing else", where=where, hint="leave it out")
        parts.append(found.iloc[some(len(found), settings.images_each, seed)])
    return pd.concat(parts).drop_duplicates("image_id").sort_values("image_id").reset_index(drop=True)
