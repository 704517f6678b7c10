"""The latent cache: what a VAE and a tokenizer make of a Dataset's images and prompts, memory-mapped.

A folder with `latents.json`, `rows.parquet` (a row an image, sorted by image id) and two npy files a shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json

FORMAT = 1
SPLITS = ("train", "val")
"""What is encoded: training needs the first, its validation loss the second. Test patients are never trained on."""

COLUMNS = ["image_id", "patient_id", "split", "view", "labels", "prompt"]


@dataclass(frozen=True)
class LatentsInfo:
    """What `latents.json` says of the whole.

    `latent_shape` is (channels, height, width) of one image's latents, `dataset` the Dataset's digest and `vae` the
    sha256 of the VAE's weights. `shards` lists the files: {"moments": name, "token_ids": name, "num_images": n}.
    """

    num_images: int
    latent_shape: tuple[int, int, int]
    num_tokens: int
    dtype: str
    dataset: str
    vae: str
    digest: str
    shards: tuple[Mapping[str, str | int], ...]
    format: int = FORMAT


def write_latents_info(folder: Path, info: LatentsInfo) -> None:
    """Write `latents.json`, which makes the folder a latent cache."""
    write_json(folder / "latents.json", asdict(info))


def rows_to_encode(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a Dataset that a cache holds, in its order."""
    return rows[rows["split"].isin(SPLITS)].sort_values("image_id", ignore_index=True)


class Stacked:
    """Arrays behind one another along their first axis, read where they lie on disk."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = list(arrays)
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: int | np.ndarray) -> np.ndarray:
        """One entry, or a copy of several in the order asked for."""
        if isinstance(rows, np.ndarray):
            return np.stack([self[int(row)] for row in rows])
        shard = int(np.searchsorted(self._starts, rows, side="right")) - 1
        return self._arrays[shard][rows - self._starts[shard]]


@dataclass(frozen=True)
class LatentCache:
    """A latent cache opened for reading."""

    folder: Path
    info: LatentsInfo

    @classmethod
    def open(cls, folder: Path) -> "LatentCache":
        """Open a cache. Raises UserError where `folder` is none or was written in another format."""
        path = folder / "latents.json"
        if not path.is_file():
            raise UserError(
                "not a latent cache: it has no latents.json", where=str(folder), mend="name a finished latents stage"
            )
        value = read_json(path)
        if value.get("format") != FORMAT:
            raise UserError(f"format {value.get('format')!r}, but this version reads {FORMAT}", where=str(path))
        shape, shards = tuple(value.pop("latent_shape")), tuple(value.pop("shards"))
        return cls(folder, LatentsInfo(**value, latent_shape=shape, shards=shards))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row an image (`COLUMNS`), sorted by image id; row i belongs to `moments[i]` and `token_ids[i]`."""
        return pq.read_table(self.folder / "rows.parquet").to_pandas()

    @cached_property
    def moments(self) -> Stacked:
        """Mean and log variance of each image's latents, not scaled: (2 * channels, height, width)."""
        return self._stacked("moments")

    @cached_property
    def token_ids(self) -> Stacked:
        """Token ids of each image's prompt: int32 (num_tokens,)."""
        return self._stacked("token_ids")

    def indices(self, split: str) -> np.ndarray:
        """Which rows are of a split: int64."""
        return np.flatnonzero(self.rows["split"].to_numpy() == split)

    def _stacked(self, role: str) -> Stacked:
        paths = [self.folder / str(shard[role]) for shard in self.info.shards]
        return Stacked([np.load(path, mmap_mode="r") for path in paths])
