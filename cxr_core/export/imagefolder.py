"""An image folder as Hugging Face's `datasets` reads it: `<split>/000/<image id>.png` and a metadata.parquet a split.

Parquet and not CSV, since a reader of CSV guesses types: 00000100 becomes 100, and a split without an age or a prompt
has columns of another type than the next.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset
from cxr_core.export.layout import FILES_A_FOLDER, file_stem, typed_table

SPLITS = {"train": "train", "val": "validation", "test": "test", "synthetic": "train"}
"""Our split -> the folder by whose name `datasets` knows it."""


class ImageFolder:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._paths: list[str] = []

    def path(self, number: int, row: Any) -> str:
        path = f"{SPLITS[row.split]}/{number // FILES_A_FOLDER:03d}/{file_stem(row.image_id)}.png"
        self._paths.append(path)
        return path

    def content(self, row: Any) -> bytes:
        return self.dataset.png(row)

    def finish(self, folder: Path) -> None:
        splits, _, names = zip(*(path.partition("/") for path in self._paths), strict=True)
        table = typed_table(self.dataset, names)
        for split in sorted(set(splits)):
            inside = pa.array([name == split for name in splits])
            pq.write_table(table.filter(inside), folder / split / "metadata.parquet")
