"""The latents job: images and prompts of a Dataset are encoded once, into a memory-mapped cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.latents import COLUMNS, SPLITS, LatentShard, LatentsInfo, rows_to_encode, write_latents_info
from cxr_core.data.prompts import MAX_TOKENS, check_lengths
from cxr_core.errors import UserError
from cxr_core.generation.series import moved_patients
from cxr_core.models.base import inspect_base
from cxr_core.models.checkpoints import final_checkpoint, lock_base, vae_sha256
from cxr_core.models.geometry import Geometry
from cxr_core.runs.files import canonical_json, sha256_file, sha256_text
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.runs.tables import read_npy, read_table
from cxr_core.training.settings import LatentsStage

ROLES = ("moments", "token_ids")


def estimate(settings: LatentsStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Before the base is there, its latents are taken to be those of Stable Diffusion: 8 numbers per 8 x 8 pixels.

    Raises UserError where the base cannot be used, or images are known to be of another size than it was made for.
    """
    dataset, base = inputs["dataset"], inputs["base"]
    like = inspect_base(final_checkpoint(base)).folder if isinstance(base, Path) else base.like
    known = Geometry.of(like) if like else None
    size = Dataset.open(dataset).info.size if isinstance(dataset, Path) else dataset.image_size
    if known and size not in (None, known.image_size):
        raise known.misfit(size, where=f"stage {settings.name!r}, inputs.dataset {settings.inputs.dataset!r}")
    side = known.latent_size if known else 64
    num_images = Dataset.open(dataset).info.num_images if isinstance(dataset, Path) else dataset.num_items
    each = 8 * side**2 * np.dtype(settings.dtype).itemsize + 4 * MAX_TOKENS
    num_shards = -(-num_images // settings.shard_size)
    notes = ["test images are not encoded: at most this"] + ([] if known else ["latents taken to be 64 x 64"])
    return Estimate(num_images, num_shards, 3 * num_shards + 6, num_images * each, notes)


def freeze(context: Context, work: Path) -> Draft:
    """Write rows.parquet (the images, in the cache's order) and base.json (which model encodes).

    Raises UserError where the base cannot be used, or naming an image whose prompt its tokenizer would cut.
    """
    settings: LatentsStage = context.settings
    dataset, folder = Dataset.open(context.inputs["dataset"]), final_checkpoint(context.inputs["base"])
    base = inspect_base(folder)
    geometry = Geometry.of(folder)
    if dataset.info.size != geometry.image_size:
        raise geometry.misfit(dataset.info.size, where=str(dataset.folder))
    rows = rows_to_encode(dataset.rows, settings.train_images)
    if rows.empty:
        raise UserError(f"no image is in the splits {' or '.join(SPLITS)}", where=str(dataset.folder / "index.parquet"))
    check_lengths(dict(zip(rows["prompt"], rows["image_id"], strict=True)), folder / "tokenizer")
    write_parquet(work / "rows.parquet", pa.Table.from_pandas(rows[COLUMNS], preserve_index=False))
    lock_base(base, settings.base_sha256, work / "base.json")
    return Draft(slices(len(rows), settings.shard_size))


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Encode the shard's images and prompts."""
    from cxr_core.training.encode import encode_rows
    from cxr_core.training.engine import threads

    settings: LatentsStage = context.settings
    dataset = Dataset.open(context.inputs["dataset"])
    rows = rows_to_encode(dataset.rows, settings.train_images).iloc[shard.start : shard.stop]
    folder = final_checkpoint(context.inputs["base"])
    with threads(settings.threads):
        encode_rows(folder, dataset, rows, settings.batch_size, work, dtype=settings.dtype, threads=settings.threads)
    paths = {role: work / f"{role}.npy" for role in ROLES}
    digest = sha256_text(canonical_json({role: sha256_file(path) for role, path in paths.items()}))
    return Output(paths, digest, {"images": len(rows)})


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write rows.parquet and latents.json."""
    rows = read_table(context.plan_folder / "rows.parquet").to_pandas()
    write_parquet(context.folder / "rows.parquet", pa.Table.from_pandas(rows, preserve_index=False))
    dataset = Dataset.open(context.inputs["dataset"])
    moments, token_ids = (read_npy(receipts[0].path(context.folder, role), mapped=True) for role in ROLES)
    info = LatentsInfo(
        num_images=len(rows),
        latent_shape=(moments.shape[1] // 2, *moments.shape[2:]),
        num_tokens=token_ids.shape[1],
        dtype=str(moments.dtype),
        dataset=dataset.info.digest,
        findings=dataset.info.findings,
        vae=vae_sha256(final_checkpoint(context.inputs["base"])),
        digest=sha256_text(canonical_json([receipt.digest for receipt in receipts])),
        boxed_split=moved.model_dump(mode="json") if (moved := moved_patients(dataset)) else None,
        shards=tuple(_files(context, receipt) for receipt in receipts),
    )
    write_latents_info(context.folder, info)
    return {"digest": info.digest, "num_images": info.num_images, "latent_shape": info.latent_shape}


def _files(context: Context, receipt: Receipt) -> LatentShard:
    moments, token_ids = (receipt.path(context.folder, role).relative_to(context.folder).as_posix() for role in ROLES)
    return {"moments": moments, "token_ids": token_ids, "num_images": receipt.counts["images"]}
