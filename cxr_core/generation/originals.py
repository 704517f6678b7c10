"""The training images of a generator, to see whether a drawn image repeats one: by spectra, then pixel by pixel."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_core.data.copies import SPECTRUM_WIDTH, best_of, relief, spectra, thumbnail
from cxr_core.data.dataset import Dataset
from cxr_core.data.neighbours import nearest
from cxr_core.runs.progress import bar
from cxr_core.runs.tables import read_npy

FILE = "originals.npy"
_CANDIDATES = 5
"""Training images of the most alike spectra, with which an image is aligned."""
_AT_ONCE = 256


@dataclass(frozen=True)
class Original:
    """The training image that a picture aligns to best, and the correlation of the two, -1..1."""

    image_id: str
    score: float


class Originals:
    """All training images of a real Dataset; in memory are their spectra alone, about 0.5 kB an image."""

    def __init__(self, real: Dataset, found: np.ndarray) -> None:
        self._real, self._rows, self._spectra = real, training_rows(real), found.astype(np.float32)
        assert len(self._rows) == len(found), f"{len(found)} spectra of {len(self._rows)} training images"

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, images: Iterable[np.ndarray]) -> list[Original]:
        """Of each picture uint8 (height, width) the training image most like it; "" and -1 where there are none."""
        thumbs = np.stack([thumbnail(image) for image in images])
        _, places = nearest(spectra(thumbs), lambda: [self._spectra], _CANDIDATES)
        return [self._best(thumb, row[row >= 0]) for thumb, row in zip(thumbs, places, strict=True)]

    def _best(self, thumb: np.ndarray, places: np.ndarray) -> Original:
        if not len(places):
            return Original("", -1.0)
        rows = self._rows.iloc[places]
        place, how = best_of(relief(thumb), [relief(thumbnail(image)) for image in self._real.images(rows)])
        return Original(rows["image_id"].iloc[place], how.score)


@lru_cache(maxsize=1)
def open_originals(real: Path, plan: Path) -> Originals:
    """Those of the real Dataset in a folder whose spectra a plan holds. Kept for the next shard."""
    return Originals(Dataset.open(real), read_npy(plan / FILE))


def training_rows(real: Dataset) -> pd.DataFrame:
    """The rows whose spectra `measure_originals` gives, in their order."""
    return real.of_split("train")


def measure_originals(real: Dataset, threads: int) -> np.ndarray:
    """Spectra of all training images: float16 (num_images, SPECTRUM_WIDTH)."""
    rows = training_rows(real)
    found = np.empty((len(rows), SPECTRUM_WIDTH), np.float16)

    def thumb_of(row: Any) -> np.ndarray:
        return thumbnail(real.image(row))

    with ThreadPoolExecutor(threads) as pool, bar("training images", len(rows)) as progress:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows.iloc[start : start + _AT_ONCE]
            found[start : start + len(some)] = spectra(np.stack(list(pool.map(thumb_of, some.itertuples()))))
            progress.advance(len(some))
    return found
