"""A Dataset in a notebook: as a table of pandas, as images of Pillow, as a Dataset of torch."""

import io
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from cxr_core.api.torch_images import TorchImages

_OF_THE_TARS = ["labels", "shard", "offset", "length"]
"""Columns of the index that say where and how something is stored."""


def open_dataset(path: str | Path) -> "OpenedDataset":
    """Open a Dataset: the folder of a finished preprocess or generate stage, or one that somebody gave away.

    Raises UserError where `path` is none, is damaged, or was written in another format.
    """
    return OpenedDataset(Dataset.open(Path(path)))


class OpenedDataset:
    """A Dataset, real or synthetic. Opening it reads no image and no table; each is read when it is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __repr__(self) -> str:
        kind = "synthetic" if self.is_synthetic else "real"
        return f"<{len(self):,} {kind} images of {self.size} px in {self.path}>"

    def __len__(self) -> int:
        """Number of images."""
        return self._dataset.info.num_images

    @property
    def path(self) -> Path:
        """The folder."""
        return self._dataset.folder

    @property
    def findings(self) -> tuple[str, ...]:
        """The vocabulary, in the order of the columns of `labels`."""
        return self._dataset.findings.names

    @property
    def size(self) -> int:
        """Height and width of every image in pixels."""
        return self._dataset.info.size

    @property
    def is_synthetic(self) -> bool:
        """Whether a model drew the images."""
        return self._dataset.info.synthetic

    @property
    def digest(self) -> str:
        """sha256 over ids, pixels, labels, boxes, prompts and seeds: equal for equal content."""
        return self._dataset.info.digest

    def table(self, split: str | None = None) -> pd.DataFrame:
        """A row an image, indexed by image id: patient, split, view, age in years, sex, findings, boxes, prompt, seed.

        `findings` holds a tuple of names, ("No Finding",) where there is none; `boxes` a list of dicts of finding, x,
        y, w, h in pixels of the stored image, from the upper left. `split` is train, val, test or synthetic; None is
        all. Raises UserError where the index is damaged, or has no such split.
        """
        rows = self._rows_of(split)
        table = rows.drop(columns=["image_id", *_OF_THE_TARS])
        place = list(table.columns).index("boxes")
        table.insert(place, "findings", [self._dataset.findings.decode(bits) for bits in rows["labels"]])
        return table

    def labels(self, split: str | None = None) -> pd.DataFrame:
        """True and False, a row an image by image id and a column a finding; to group, count or train by."""
        rows = self._rows_of(split)
        matrix = self._dataset.label_matrix(rows).astype(bool)
        return pd.DataFrame(matrix, index=rows.index, columns=list(self.findings))

    def image(self, row: str | pd.Series) -> "Image":
        """The image of an image id, or of a row of `table`: 8-bit grey (Pillow's mode "L"), `size` pixels a side.

        Raises UserError where there is no such image, or its shard is missing or damaged.
        """
        from PIL import Image

        image = Image.open(io.BytesIO(self._dataset.png(self._row(row))), formats=["PNG"])
        image.load()
        return image

    def images(self, rows: pd.DataFrame | Iterable[str]) -> "Iterator[Image]":
        """`image` of each row of a (part of a) `table`, or of each image id, in their order."""
        return map(self.image, rows.index if isinstance(rows, pd.DataFrame) else rows)

    def torch(self, split: str | None = None, *, channels: int = 1) -> "TorchImages":
        """A `torch.utils.data.Dataset` of the images and labels of a split, for a DataLoader."""
        from cxr_core.api.torch_images import TorchImages

        return TorchImages(self._dataset, self._rows_of(split).reset_index(drop=True), channels)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return self._dataset.rows.set_index("image_id", drop=False)

    def _rows_of(self, split: str | None) -> pd.DataFrame:
        if split is None:
            return self._rows
        splits = sorted(self._rows["split"].unique())
        if split not in splits:
            raise UserError(f"no split {split!r}", where=str(self.path), hint=f"there are: {', '.join(splits)}")
        return self._rows[self._rows["split"] == split]

    def _row(self, row: str | pd.Series) -> Any:
        image_id = str(row.name) if isinstance(row, pd.Series) else row
        if image_id not in self._rows.index:
            hint = "`.table().index` lists the ids, which are the file names without their ending"
            raise UserError(f"no image {image_id!r}", where=str(self.path), hint=hint)
        return self._rows.loc[image_id]
