"""One mix of labels and views for both sides of a comparison, so that a distance tells of images and not of the mix.

A cell is the exact labels of an image with its view. Each image weighs its cell's share of the request over the images
of that cell (post-stratification), so every side has the mix that was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.evaluation.distances import effective_size
from cxr_core.seeds import unit_hash

CELL = ["labels", "view"]

_HALVINGS = 24


@dataclass(frozen=True)
class Mix:
    """The cells that every side of a comparison has, their shares of the request (sum 1), and what is left out.

    `coverage` is the part of the request in these cells, `lacking` the other cells with their parts, largest first.
    """

    shares: pd.Series
    coverage: float
    lacking: pd.Series

    @classmethod
    def of(cls, request: pd.DataFrame, references: Sequence[pd.DataFrame]) -> "Mix":
        """The mix of `request` in the cells that all `references` have; rows need the columns of `CELL`."""
        parts = request.value_counts(CELL).sort_index() / len(request)
        has = np.ones(len(parts), bool)
        for rows in references:
            has &= parts.index.isin(rows.value_counts(CELL).index)
        covered = parts[has]
        lacking = parts[~has].sort_values(ascending=False, kind="stable")
        return cls(covered / covered.sum(), float(covered.sum()), lacking)

    def weights(self, rows: pd.DataFrame) -> np.ndarray:
        """What each image weighs so that `rows` have this mix: (n,), of sum 1; 0 in other cells."""
        cells = self._cells(rows)
        inside = cells >= 0
        weights = np.zeros(len(rows))
        sizes = np.bincount(cells[inside], minlength=len(self.shares))
        weights[inside] = (self.shares.to_numpy() / np.maximum(sizes, 1))[cells[inside]]
        return weights

    def covers(self, rows: pd.DataFrame) -> np.ndarray:
        """Which images are of these cells: bool (n,)."""
        return self._cells(rows) >= 0

    def _cells(self, rows: pd.DataFrame) -> np.ndarray:
        """The number of each image's cell, -1 for another: (n,)."""
        return self.shares.index.get_indexer(pd.MultiIndex.from_frame(rows[CELL]))

    def sample(self, rows: pd.DataFrame, features: np.ndarray, groups: Sequence[str] | pd.Series) -> "Sample":
        """The images of `rows` in these cells. `groups` are resampled as wholes: the patient, or the image itself."""
        cells = self._cells(rows)
        kept = np.flatnonzero(cells >= 0)
        ids, who = rows["image_id"].to_numpy(), np.asarray(groups)
        return Sample(features[kept], cells[kept], ids[kept], who[kept], self.shares.to_numpy())


@dataclass(frozen=True)
class Sample:
    """One side of a comparison.

    features (n, width); `cells` (n,) index `shares`; `image_ids` and `groups` (n,); `shares` (cells,) sum to 1.
    """

    features: np.ndarray
    cells: np.ndarray
    image_ids: np.ndarray
    groups: np.ndarray
    shares: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def weights(self, counts: np.ndarray | None = None) -> np.ndarray:
        """The weight of each image, (n,), or in each resample for counts (resamples, n); they sum to 1.

        A cell that a resample misses leaves its share to the others.
        """
        drawn = np.ones((1, len(self))) if counts is None else counts
        weights = np.empty(drawn.shape)
        for one, row in zip(weights, drawn, strict=True):
            sizes = np.bincount(self.cells, weights=row, minlength=len(self.shares))
            one[:] = row * (self.shares / np.where(sizes, sizes, 1))[self.cells]
        weights /= weights.sum(axis=1, keepdims=True)
        return weights[0] if counts is None else weights

    @property
    def effective(self) -> float:
        """The effective number of images."""
        return effective_size(self.weights()) if len(self) else 0.0

    def take(self, kept: np.ndarray) -> "Sample":
        """The images at these places."""
        return replace(
            self,
            features=self.features[kept],
            cells=self.cells[kept],
            image_ids=self.image_ids[kept],
            groups=self.groups[kept],
        )

    def thinned(self, effective: float, seed: int) -> "Sample":
        """Of every cell the same part, and at least one image, so that about `effective` images are left in effect.

        Whole patients go first to last in the order of their hash, so what is left has patients like the whole.
        """
        if self.effective <= effective:
            return self
        place = self._place_in_cell(seed)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = self.take(np.flatnonzero(place < middle)).effective > effective
            low, high = (low, middle) if enough else (middle, high)
        return self.take(np.flatnonzero(place < high))

    def stratified(self, num: int, seed: int) -> "Sample":
        """`num` images in the mix of the whole: at equal steps through all images by cell, then by hash."""
        if num >= len(self):
            return self
        order = np.lexsort((self._hashes(self.image_ids, seed), self.cells))
        steps = (np.arange(num) + unit_hash(seed, "start")) * (len(self) / num)
        return self.take(np.sort(order[steps.astype(int)]))

    def _place_in_cell(self, seed: int) -> np.ndarray:
        """0 for the first image of a cell, and towards 1 for its last: (n,)."""
        order = np.lexsort((self.image_ids, self._hashes(self.groups, seed), self.cells))
        cells = self.cells[order]
        starts = np.searchsorted(cells, cells)
        sizes = np.bincount(cells, minlength=len(self.shares))[cells]
        place = np.empty(len(self))
        place[order] = (np.arange(len(self)) - starts) / sizes
        return place

    def _hashes(self, names: np.ndarray, seed: int) -> np.ndarray:
        known = {name: unit_hash(seed, "order", str(name)) for name in np.unique(names)}
        return np.array([known[name] for name in names])


def halves(patients: pd.Series, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images are of one half of the patients, and which of the other, by hash: two boolean arrays (n,)."""
    names = sorted(patients.unique(), key=lambda name: (unit_hash(seed, "half", str(name)), name))
    first = patients.isin(names[: len(names) // 2]).to_numpy()
    return first, ~first


def cell_names(cells: pd.Series, findings: Findings) -> list[str]:
    """Cells for people: "Edema PA", "Edema|Effusion AP"."""
    return [f"{'|'.join(findings.decode(int(labels)))} {view or 'unknown view'}" for labels, view in cells.index]
