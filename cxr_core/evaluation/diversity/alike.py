"""How alike images of one prompt are (fours of them, all six pairs, by MS-SSIM), and real images of one cell."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.evaluation.diversity.msssim import ms_ssim, scales_of
from cxr_core.evaluation.diversity.results import Alike
from cxr_core.evaluation.intervals import not_degenerate, percentiles
from cxr_core.evaluation.mix import CELL
from cxr_core.evaluation.pools import in_hash_order
from cxr_core.evaluation.utility import load_images
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output
from cxr_core.runs.tables import read_table
from cxr_core.seeds import derive_seed

EACH = 4
"""Images of a group."""
_LEAST = 5
"""Groups that are needed for a number."""
_PAIRS = list(combinations(range(EACH), 2))


def prompt_groups(rows: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Fours of synthetic images of one prompt, by hash: columns group, image_id, labels, view.

    At most `most` fours: the first of every prompt, then the second of every prompt that has one, and so on.
    """
    fours = _fours(rows, ["prompt"], seed)
    names = fours.sort_values("turn", kind="stable")["group"].unique()[:most]
    return _sorted(fours[fours["group"].isin(names)])


def cell_groups(rows: pd.DataFrame, like: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Fours of real images of different patients and one cell: of each cell of `like` as many as it has there."""
    fours = _fours(rows.drop_duplicates("patient_id"), CELL, seed)
    there = like.drop_duplicates("group").value_counts(CELL)
    wanted = there.reindex(pd.MultiIndex.from_frame(fours[CELL])).fillna(0).to_numpy()
    return _sorted(fours[(fours["turn"] < wanted).to_numpy()])


def _fours(rows: pd.DataFrame, key: list[str], seed: int) -> pd.DataFrame:
    """Images in order of hash, in fours of equal `key`: which four of its key (`turn`), and its name (`group`)."""
    ordered = in_hash_order(rows, seed, "alike")
    place = ordered.groupby(key).cumcount()
    sizes = ordered.groupby(key)["image_id"].transform("size")
    whole = ordered.assign(turn=place // EACH)[place < sizes - sizes % EACH]
    return whole.assign(group=whole.groupby([*key, "turn"], sort=False)["image_id"].transform("first"))


def _sorted(fours: pd.DataFrame) -> pd.DataFrame:
    return fours[["group", "image_id", *CELL]].sort_values(["group", "image_id"])


def write_groups(path: Path, groups: pd.DataFrame) -> None:
    write_parquet(path, pa.Table.from_pandas(groups, preserve_index=False))


def read_groups(path: Path) -> pd.DataFrame:
    return read_table(path).to_pandas()


def alike_shard(groups: pd.DataFrame, dataset: Dataset, size: int, work: Path) -> Output:
    """MS-SSIM of each group, the mean of its six pairs at `size` pixels a side; NaN where images are too small."""
    values = []
    with bar("MS-SSIM", len(groups) // EACH) as progress:
        for _, rows in groups.groupby("group"):
            images = load_images(dataset, rows["image_id"], size)
            first, second = (images[list(side)] for side in zip(*_PAIRS, strict=True))
            values.append(float(ms_ssim(first, second).mean()) if scales_of(size) else float("nan"))
            progress.advance()
    table = groups.drop_duplicates("group")[["group", "labels"]].assign(ms_ssim=values)
    write_parquet(work / "alike.parquet", pa.Table.from_pandas(table, preserve_index=False))
    digest = sha256_text(canonical_json([table["group"].tolist(), [repr(value) for value in values]]))
    return Output({"alike": work / "alike.parquet"}, digest, {"pairs": len(_PAIRS) * len(values)})


def measure_alike(table: pd.DataFrame, num_resamples: int, seed: int) -> Alike:
    """Of the groups of a shard (columns group, labels, ms_ssim)."""
    values = table["ms_ssim"].dropna().to_numpy()
    if len(values) < _LEAST:
        reason = f"n = {len(values)} groups of {EACH} images, {_LEAST} are needed"
        return Alike(num_groups=len(values), not_computed=reason)
    generator = np.random.default_rng(derive_seed(seed, "alike"))
    drawn = values[generator.integers(len(values), size=(num_resamples, len(values)))].mean(axis=1)
    interval = not_degenerate(percentiles(float(values.mean()), drawn), len(values))
    return Alike(num_groups=len(values), ms_ssim=interval)
