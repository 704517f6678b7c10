"""The searches among all training images: in shards of the images that are looked for, and how they are read again.

What is looked for is the source of a search: the images of a source (`synthetic`, or a point of a sweep);
real images of `held` out patients, and of `train`, each among those of other patients; copies that are `planted`. All
shards look among the same images, of which features and thumbnails are made by shards of their own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.copies import SPECTRA, spectra, thumbnail
from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.evaluation.memorisation.descriptors import described_rows, descriptor_shards
from cxr_core.evaluation.memorisation.plants import PLANTS
from cxr_core.evaluation.memorisation.search import Search, SearchedImages
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.pools import in_hash_order
from cxr_core.evaluation.purpose import SEARCH, Purpose, purpose_of, shard_for, shards_for, slices_for
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.plan import Shard
from cxr_core.runs.stage import Output
from cxr_core.runs.tables import read_table
from cxr_core.seeds import derive_seed, unit_hash

HELD_OUT, TRAIN, PLANTED = "held", "train", "planted"
"""What is looked for beside synthetic images."""
BYTES_AN_IMAGE = 64
"""That a shard keeps, about."""


def freeze_searches(
    synthetic: Sequence[str], held_out: Sequence[str], settings: Memorisation, seed: int, work: Path
) -> list[Shard]:
    """The shards that look for the images of each source of `synthetic`, and for those that they are compared with.

    `work` has what is looked at (`freeze_descriptors`); `held_out` are the splits of held-out patients.
    """
    real = described_rows(work, "real")
    sizes = {source: len(described_rows(work, source)) for source in synthetic}
    sizes |= {what: len(places) for what, places in real_places(real, held_out, settings, seed).items()}
    found = [shard for what, size in sizes.items() for shard in _parts(what, size, settings.search_shard_size)]
    num_planted = min(settings.num_planted, int((real["split"] == "train").sum()))
    return [*found, *_parts(PLANTED, num_planted, num_planted)]


def _parts(what: str, size: int, at_once: int) -> Sequence[Shard]:
    """Slices of what is looked for; one of nothing where there is nothing, which finds nothing."""
    purpose = Purpose(SEARCH, what)
    return slices_for(size, at_once, purpose) or (shard_for(f"{SEARCH}-{what}-00000", purpose, 0, 0),)


def training_sample(rows: pd.DataFrame, most: int, seed: int) -> np.ndarray:
    """Places of training images among `rows`: whole patients in the order of their hash, `most` images at most."""
    is_train = rows["split"] == "train"
    sizes = rows.loc[is_train, "patient_id"].value_counts()
    order = sorted(sizes.index, key=lambda name: (unit_hash(seed, "train to train", name), name))
    chosen = sizes[order].cumsum() <= most
    return np.flatnonzero(is_train & rows["patient_id"].isin(chosen.index[chosen]))


def real_places(
    real: pd.DataFrame, held_out: Sequence[str], settings: Memorisation, seed: int
) -> dict[str, np.ndarray]:
    """Where, among the real images, those lie that are looked for, by what is looked for."""
    held = np.flatnonzero(real["split"].isin(held_out))
    return {HELD_OUT: held, TRAIN: training_sample(real, settings.num_train, seed)}


def needed(shards: Sequence[Shard], search: Shard) -> list[Shard]:
    """The shards of a plan whose data a search reads: all of real images, and those of the images that it looks for.

    Where they are to be made first, searches that begin at once make different ones first: each begins elsewhere.
    """
    mine = [shard for shard in descriptor_shards(shards, purpose_of(search).source) if _meet(shard, search)]
    found = [*descriptor_shards(shards, "real"), *mine]
    searches = [shard.id for shard in shards_for(shards, [SEARCH])]
    first = len(found) * searches.index(search.id) // len(searches)
    return found[first:] + found[:first]


def _meet(one: Shard, other: Shard) -> bool:
    return one.start < other.stop and other.start < one.stop


def search(
    shard: Shard,
    seen: Mapping[str, SearchedImages],
    dataset: Dataset,
    held_out: Sequence[str],
    settings: Memorisation,
    seed: int,
    work: Path,
) -> Output:
    """Look for the images of one shard; writes found.parquet, a row an image (`Found.table`, or of planted copies).

    `seen` has the real images, and the source that is looked for; `dataset` is the real one.
    """
    what = purpose_of(shard).source
    real = Search(seen["real"])
    rows = np.arange(shard.start, shard.stop)
    if what == PLANTED:
        table = _planted(dataset, real, settings.num_planted, seed)
    elif what in seen:
        table = real.synthetic(seen[what], rows).table()
    else:
        places = real_places(real.real.rows, held_out, settings, seed)[what][rows]
        table = (real.held_out(places) if what == HELD_OUT else real.others(places)).table()
    write_parquet(work / "found.parquet", pa.Table.from_pandas(table, preserve_index=False))
    content = [[name, hashlib.sha256(_bytes(table[name])).hexdigest()] for name in table.columns]
    return Output({"found": work / "found.parquet"}, sha256_text(canonical_json(content)), {"images": len(table)})


def _bytes(column: pd.Series) -> bytes:
    values = column.to_numpy()
    return "\0".join(values).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()


def _planted(dataset: Dataset, search: Search, num: int, seed: int) -> pd.DataFrame:
    """Copies of training images, `num` of each kind: whether the original is among those compared, and its score."""
    rows = dataset.rows.set_index("image_id", drop=False).loc[search.real.rows["image_id"].iloc[search.train]]
    numbered = rows.assign(_place=np.arange(len(rows))).reset_index(drop=True)
    chosen = in_hash_order(numbered, seed, "planted copies").head(num)
    images, places = dataset.images(chosen), chosen["_place"].to_numpy()
    draw = np.random.default_rng(derive_seed(seed, "planted copies"))
    found = []
    for kind, plant in PLANTS.items():
        thumbs = np.stack([thumbnail(plant(image, draw)) for image in images])
        looked = search.planted(SPECTRA, spectra(thumbs), thumbs)
        is_compared = (looked.candidates == places[:, None]).any(axis=1)
        found.append(pd.DataFrame({"kind": kind, "is_compared": is_compared, "score": looked.scores}))
    return pd.concat(found, ignore_index=True)


def read_found(shards: Sequence[Shard], files: Mapping[str, Mapping[str, Path]]) -> dict[str, pd.DataFrame]:
    """What all searches of a plan found, by what was looked for, in the order of its rows."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for shard in shards_for(shards, [SEARCH]):
        parts.setdefault(purpose_of(shard).source, []).append(read_table(files[shard.id]["found"]).to_pandas())
    return {what: pd.concat(tables, ignore_index=True) for what, tables in parts.items()}
