"""A Dataset as torch takes it: tensors by number, in any number of worker processes."""

from typing import TypedDict

import pandas as pd
import torch
import torch.utils.data

from cxr_core.data.dataset import Dataset
from cxr_core.models.pixels import to_pixels


class Item(TypedDict):
    """One image; a DataLoader stacks its tensors and lists its texts."""

    image: torch.Tensor
    """float32 (channels, size, size) in [-1, 1]; the grey value in every channel."""
    labels: torch.Tensor
    """float32 (num_findings) of 0 and 1, in the order of the Dataset's findings."""
    image_id: str
    prompt: str


class TorchImages(torch.utils.data.Dataset[Item]):
    """The images of some rows of a Dataset's index, in their order."""

    def __init__(self, dataset: Dataset, rows: pd.DataFrame, channels: int) -> None:
        self._dataset, self._rows, self._channels = dataset, rows, channels
        self._labels = torch.from_numpy(dataset.label_matrix(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Item:
        """Raises IndexError beyond the last one, or UserError where the image's shard is missing or damaged."""
        row = self._rows.iloc[number]
        return Item(
            image=to_pixels(self._dataset.image(row)[None], self._channels)[0],
            labels=self._labels[number],
            image_id=row.image_id,
            prompt=row.prompt,
        )
