"""Thumbnails and spectra of all training, held-out and synthetic images: in shards, and how they are read again.

A shard is named `copies-<source>-00000`; the source is a Dataset (real or synthetic).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.errors import UserError
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.memorisation.copies import SIDE, SPECTRA, SPECTRUM_WIDTH, spectra, thumbnail
from cxr_core.evaluation.memorisation.neighbours import Stored
from cxr_core.evaluation.memorisation.search import Seen
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.progress import bar
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output

COLUMNS = ["image_id", "patient_id", "split", "view", "labels"]
BYTES_AN_IMAGE = SIDE * SIDE + 4 * SPECTRUM_WIDTH
"""That a shard keeps."""
_AT_ONCE = 64


def freeze_looks(datasets: Mapping[str, Dataset], shard_size: int, work: Path) -> list[Shard]:
    """Write which images of each Dataset are looked at; the shards are slices of these, in the order of features.

    Raises UserError where there is no training image, of which any could be a copy.
    """
    shards: list[Shard] = []
    if not (datasets["real"].rows["split"] == "train").any():
        raise UserError(
            "no training images: nothing of which an image could be a copy",
            where="memorisation",
            mend="name in inputs.real the Dataset that the generator learnt from",
        )
    for source, dataset in datasets.items():
        rows = dataset.rows
        if source == "real":
            rows = rows[rows["split"].isin(("train", *HELD_OUT))]
        rows = rows.sort_values(["split", "image_id"])[COLUMNS]
        write_parquet(_list(work, source), pa.Table.from_pandas(rows, preserve_index=False))
        shards += slices(len(rows), shard_size, prefix=f"copies-{source}-")
    return shards


def look(shard: Shard, datasets: Mapping[str, Dataset], plan: Path, work: Path) -> Output:
    """Write thumbnails.npy, uint8 (n, SIDE, SIDE), and spectra.npy, float32 (n, SPECTRUM_WIDTH), of one shard."""
    source = _source(shard.id)
    dataset, ids = datasets[source], looked_at(plan, source)["image_id"].iloc[shard.start : shard.stop]
    rows = dataset.rows.set_index("image_id", drop=False).loc[ids]
    thumbs = np.empty((len(rows), SIDE, SIDE), np.uint8)
    with bar("thumbnails", len(rows)) as progress:
        for start in range(0, len(rows), _AT_ONCE):
            images = dataset.images(rows.iloc[start : start + _AT_ONCE])
            thumbs[start : start + len(images)] = [thumbnail(image) for image in images]
            progress.advance(len(images))
    paths = {"thumbnails": work / "thumbnails.npy", "spectra": work / "spectra.npy"}
    for path, found in zip(paths.values(), (thumbs, spectra(thumbs)), strict=True):
        np.save(path, found)
    digest = sha256_text(canonical_json([ids.tolist(), hashlib.sha256(thumbs.tobytes()).hexdigest()]))
    return Output(paths, digest, {"images": len(rows)})


def looked_at(plan: Path, source: str) -> pd.DataFrame:
    """The images of a source (`COLUMNS`) in the order of its shards."""
    return pq.read_table(_list(plan, source)).to_pandas()


def read_looks(stage_folder: Path, receipts: Sequence[Receipt], source: str, others: Mapping[str, Stored]) -> Seen:
    """The committed thumbnails and spectra of a source, beside `others`: further embeddings of the same images.

    `receipts` are the stage's, in the order of its plan.
    """
    rows = looked_at(stage_folder / "plan", source)
    mine = [receipt for receipt in receipts if receipt.shard.startswith(f"copies-{source}-")]
    stored = {
        role: Stored([receipt.path(stage_folder, role) for receipt in mine]) for role in ("spectra", "thumbnails")
    }
    assert all(len(vectors) == len(rows) for vectors in (*stored.values(), *others.values())), "an image is missing"
    return Seen(rows, {**others, SPECTRA: stored["spectra"]}, stored["thumbnails"])


def _source(shard_id: str) -> str:
    return shard_id.split("-")[1]


def _list(folder: Path, source: str) -> Path:
    return folder / f"copies-{source}.parquet"
