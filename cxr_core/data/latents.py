"""The latent cache: what a VAE and a tokenizer make of a Dataset's images and prompts, memory-mapped.

A folder with `latents.json`, `rows.parquet` (a row an image, sorted by image id) and two npy files a shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field
from typing_extensions import TypedDict

from cxr_core.data.splits import choose_patients
from cxr_core.errors import UserError
from cxr_core.runs.door import STRICT, BadFileError, Inside, Place, parse
from cxr_core.runs.files import write_json
from cxr_core.runs.tables import read_npy, read_table

FORMAT = 1
SPLITS = ("train", "val", "synthetic")
"""What is encoded: training needs the first, its validation loss the second, prior preservation the images of a model.
Test patients are never trained on."""

COLUMNS = ["image_id", "patient_id", "split", "view", "labels", "prompt"]


_ROWS = pa.schema([(name, pa.int64() if name == "labels" else pa.string()) for name in COLUMNS])
_Side = Annotated[int, Field(ge=1, le=1 << 16)]
_Count = Annotated[int, Field(ge=0, lt=1 << 50)]


class LatentShard(TypedDict):
    """The files of one shard, by their paths relative to the cache's folder."""

    moments: Inside
    token_ids: Inside
    num_images: _Count


@dataclass(frozen=True)
class LatentsInfo:
    """What `latents.json` says of the whole.

    `boxed_split` names the test patients who were moved to train for their boxes, see `positions.split.BoxedSplit`.
    `latent_shape` is (channels, height, width) of one image's latents, `dataset` the Dataset's digest, `findings` its
    vocabulary (the bits of `labels`), and `vae` the sha256 of the VAE's weights. `shards` lists the files:
    {"moments": name, "token_ids": name, "num_images": n}.
    """

    __pydantic_config__ = STRICT

    num_images: _Count
    latent_shape: tuple[_Side, _Side, _Side]
    num_tokens: _Side
    dtype: str
    dataset: str
    findings: tuple[str, ...]
    vae: str
    digest: str
    shards: tuple[LatentShard, ...]
    boxed_split: Mapping[str, Any] | None = None
    format: int = FORMAT


def write_latents_info(folder: Path, info: LatentsInfo) -> None:
    """Write `latents.json`, which makes the folder a latent cache."""
    write_json(folder / "latents.json", asdict(info))


def rows_to_encode(rows: pd.DataFrame, train_images: int | None = None) -> pd.DataFrame:
    """The rows of a Dataset that a cache holds, in its order.

    `train_images`: of train only so many at most, as `choose_patients` chooses them.
    """
    train = choose_patients(rows[rows["split"] == "train"], train_images)
    held = rows["split"].isin(SPLITS) & ((rows["split"] != "train") | rows["image_id"].isin(train["image_id"]))
    return rows[held].sort_values("image_id", ignore_index=True)


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
        """Open a cache. Raises UserError where `folder` is none, is damaged or was written in another format."""
        path = folder / "latents.json"
        if not path.is_file():
            raise UserError(
                "not a latent cache: it has no latents.json", where=str(folder), hint="name a finished latents stage"
            )
        try:
            text = Place(folder).read(path.name)
            number = parse(text, dict[str, Any], path).get("format")
            info = parse(text, LatentsInfo, path) if number == FORMAT else None
        except BadFileError as error:
            raise _damaged(path, error.what) from error
        if info is None:
            raise UserError(f"format {number!r}, but this version reads {FORMAT}", where=str(path))
        return cls(folder, info)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row an image (`COLUMNS`), sorted by image id; row i belongs to `moments[i]` and `token_ids[i]`.

        Raises UserError naming the file if it is missing, damaged or of another length.
        """
        path = self.folder / "rows.parquet"
        try:
            table = read_table((Place(self.folder), path.name), _ROWS)
        except (OSError, BadFileError) as error:
            raise _damaged(path, str(error)) from error
        if sum(column.null_count for column in table.columns):
            raise _damaged(path, "rows without a value")
        rows = table.to_pandas()
        if len(rows) != self.info.num_images:
            raise _damaged(path, f"{len(rows)} rows, but latents.json lists {self.info.num_images} images")
        return rows

    @cached_property
    def moments(self) -> Stacked:
        """Mean and log variance of each image's latents, not scaled: (2 * channels, height, width).

        Raises UserError naming a file that is missing, damaged or of another shape.
        """
        channels, *sides = self.info.latent_shape
        return self._stacked("moments", (2 * channels, *sides))

    @cached_property
    def token_ids(self) -> Stacked:
        """Token ids of each image's prompt: int32 (num_tokens,). Raises UserError as `moments`."""
        return self._stacked("token_ids", (self.info.num_tokens,))

    def indices(self, split: str) -> np.ndarray:
        """Which rows are of a split: int64."""
        return np.flatnonzero(self.rows["split"].to_numpy() == split)

    def _stacked(self, role: str, shape: tuple[int, ...]) -> Stacked:
        """The shards' files of one role; `shape` is that of one image's entry."""
        names = [(str(shard[role]), shard["num_images"]) for shard in self.info.shards]  # type: ignore[literal-required]
        return Stacked([_mapped(self.folder, name, (num, *shape)) for name, num in names])


def _mapped(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    path = folder / name
    try:
        array = read_npy(Place(folder).within(name), mapped=True)
    except (OSError, BadFileError) as error:
        raise _damaged(path, str(error)) from error
    if array.shape != shape:
        raise _damaged(path, f"its shape is {array.shape}, but latents.json says {shape}")
    return array


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"damaged or missing ({what})", where=str(path), hint="remove the latents stage's folder and run again"
    )
