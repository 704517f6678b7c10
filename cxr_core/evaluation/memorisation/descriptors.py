"""Thumbnails and spectra of all training, held-out and synthetic images: in shards, and how they are read again."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.copies import SIDE, SPECTRA, SPECTRUM_WIDTH, spectra, thumbnail
from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.neighbours import Stored
from cxr_core.errors import UserError
from cxr_core.evaluation.cache import FeatureCache
from cxr_core.evaluation.extraction import COLUMNS, extractor_of
from cxr_core.evaluation.memorisation.search import SearchedImages
from cxr_core.evaluation.purpose import DESCRIPTORS, EXTRACTORS, Purpose, purpose_of, shards_for, slices_for
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.plan import Shard, fingerprint
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output
from cxr_core.runs.tables import read_table

BYTES_AN_IMAGE = SIDE * SIDE + 4 * SPECTRUM_WIDTH
"""That a shard keeps."""
_AT_ONCE = 64


def freeze_descriptors(
    sources: Mapping[str, pd.DataFrame], held_out: Sequence[str], shard_size: int, work: Path
) -> list[Shard]:
    """Write which rows of each source are looked at; the shards are slices of these, in the order of features.

    Of real images those of training and of the splits `held_out`. Raises UserError where there is no training image, of
    which any could be a copy.
    """
    shards: list[Shard] = []
    if not (sources["real"]["split"] == "train").any():
        raise UserError(
            "no training images: nothing of which an image could be a copy",
            where="memorisation",
            hint="name in inputs.real the Dataset that the generator learnt from",
        )
    for source, given in sources.items():
        rows = given[given["split"].isin(("train", *held_out))] if source == "real" else given
        rows = rows.sort_values(["split", "image_id"])[COLUMNS]
        write_parquet(_list(work, source), pa.Table.from_pandas(rows, preserve_index=False))
        shards += slices_for(len(rows), shard_size, Purpose(DESCRIPTORS, source))
    return shards


def describe_images(
    shard: Shard, datasets: Mapping[str, Dataset], plan: Path, work: Path, cache: FeatureCache
) -> Output:
    """Write thumbnails.npy, uint8 (n, SIDE, SIDE), and spectra.npy, float32 (n, SPECTRUM_WIDTH), of one shard.

    Those of real images, which every search needs, are taken from the cache where another shard has made them.
    """
    source = purpose_of(shard).source
    dataset, ids = datasets[source], described_rows(plan, source)["image_id"].iloc[shard.start : shard.stop]
    rows = dataset.rows.set_index("image_id", drop=False).loc[ids]
    key = fingerprint(look=[SIDE, SPECTRUM_WIDTH], pixels=rows["pixel_sha256"].tolist())
    found = cache.read(key) if source == "real" else None
    if found is None:
        thumbs = _thumbnails(dataset, rows)
        found = {"thumbnails": thumbs, "spectra": spectra(thumbs)}
        if source == "real":
            cache.write(key, found)
    for role, array in found.items():
        np.save(work / f"{role}.npy", array)
    digest = sha256_text(canonical_json([ids.tolist(), hashlib.sha256(found["thumbnails"].tobytes()).hexdigest()]))
    return Output({role: work / f"{role}.npy" for role in found}, digest, {"images": len(rows)})


def _thumbnails(dataset: Dataset, rows: pd.DataFrame) -> np.ndarray:
    thumbs = np.empty((len(rows), SIDE, SIDE), np.uint8)
    with bar("thumbnails", len(rows)) as progress:
        for start in range(0, len(rows), _AT_ONCE):
            images = dataset.images(rows.iloc[start : start + _AT_ONCE])
            thumbs[start : start + len(images)] = [thumbnail(image) for image in images]
            progress.advance(len(images))
    return thumbs


def described_rows(plan: Path, source: str) -> pd.DataFrame:
    """The images of a source (`COLUMNS`) in the order of its shards."""
    return read_table(_list(plan, source)).to_pandas()


def read_descriptors(
    plan: Path, source: str, shards: Sequence[Shard], files: Mapping[str, Mapping[str, Path]]
) -> SearchedImages:
    """What was made of a source, in the folder `plan`, without reading it: thumbnails, spectra, extractors' features.

    `shards` hold those of the source that are needed, neighbours in the plan; `files` has where their data lie, by
    role.
    """
    made: dict[str, list[Shard]] = {}
    for shard in sorted(descriptor_shards(shards, source), key=lambda shard: shard.start):
        made.setdefault(purpose_of(shard).kind, []).append(shard)

    def stored(kind: str, role: str) -> Stored:
        return Stored([files[shard.id][role] for shard in made[kind]], made[kind][0].start)

    vectors = {extractor_of(plan, kind).name: stored(kind, "features") for kind in sorted(made) if kind != DESCRIPTORS}
    return SearchedImages(
        described_rows(plan, source),
        {**vectors, SPECTRA: stored(DESCRIPTORS, "spectra")},
        stored(DESCRIPTORS, "thumbnails"),
    )


def descriptor_shards(shards: Sequence[Shard], source: str) -> list[Shard]:
    """The shards that look at the images of a source: for thumbnails and spectra, or for features."""
    return shards_for(shards, [DESCRIPTORS, *EXTRACTORS], source)


def _list(folder: Path, source: str) -> Path:
    return folder / f"copies-{source}.parquet"
