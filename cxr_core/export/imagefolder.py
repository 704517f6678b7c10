"""An image folder as Hugging Face's `datasets` reads it: `<split>/000/<image id>.png` and a metadata.csv a split."""

from pathlib import Path
from typing import Any

from cxr_core.data.dataset import Dataset
from cxr_core.export.layout import FILES_A_FOLDER, plain_columns

SPLITS = {"train": "train", "val": "validation", "test": "test", "synthetic": "train"}
"""Our split -> the folder by whose name `datasets` knows it."""


class ImageFolder:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._paths: list[str] = []

    def path(self, number: int, row: Any) -> str:
        path = f"{SPLITS[row.split]}/{number // FILES_A_FOLDER:03d}/{row.image_id}.png"
        self._paths.append(path)
        return path

    def content(self, row: Any) -> bytes:
        return self.dataset.png(row)

    def finish(self, folder: Path) -> None:
        table = plain_columns(self.dataset)
        table.insert(0, "file_name", [path.partition("/")[2] for path in self._paths])
        for split in sorted({SPLITS[name] for name in table["split"]}):
            inside = [path.startswith(f"{split}/") for path in self._paths]
            table[inside].to_csv(folder / split / "metadata.csv", index=False)
