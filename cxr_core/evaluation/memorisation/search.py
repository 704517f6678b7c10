"""The training images nearest to each image of a set, by every way of looking, and how well their pixels align."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import pandas as pd

from cxr_core.data.copies import SPECTRA, Alignment, align, relief
from cxr_core.data.neighbours import Standard, Stored, nearest, unit
from cxr_core.runs.progress import bar

CANDIDATES = 5
"""Nearest training images in each embedding that are compared pixel by pixel."""
NEAR_IDENTICAL = 0.98
"""Correlation above which two aligned real images are one image under two names: JPEG alone costs about 0.01."""
SIMILARITY = "similarity: "
"""Before the name of an embedding: the column of a table with the largest cosine."""
_AT_ONCE = 256
"""Images that are aligned together."""


@dataclass(frozen=True)
class SearchedImages:
    """Images as they were seen: rows with image_id, patient_id and split, and in their order what lies on disk.

    `vectors` maps the name of an embedding to (n, width), the spectra or an extractor's features, which are compared in
    standard deviations over the training images; `thumbnails` are uint8 (n, SIDE, SIDE).
    """

    rows: pd.DataFrame
    vectors: Mapping[str, Stored]
    thumbnails: Stored

    def places(self, *splits: str) -> np.ndarray:
        """Where images of these splits are."""
        return np.flatnonzero(self.rows["split"].isin(splits))


@dataclass(frozen=True)
class SearchResult:
    """For n images, the most alike training image by every way of looking.

    `similarity` maps an embedding to the largest cosine (n,); `best` are the places, among the training images, of
    those to which the pixels align best, and `how` the alignments. `candidates` (n, all) are those compared.
    `left_out` (n,) tells images that are one with an image of another name.
    """

    similarity: Mapping[str, np.ndarray]
    candidates: np.ndarray
    best: np.ndarray
    how: tuple[Alignment, ...]
    left_out: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Aligned correlations: (n,)."""
        return np.array([how.score for how in self.how], float)

    def table(self) -> pd.DataFrame:
        """A row an image: best, left_out, the fields of its alignment; of each embedding `SIMILARITY` + its name."""
        how = {field.name: [getattr(each, field.name) for each in self.how] for field in fields(Alignment)}
        types = {"score": float, "mirrored": bool, "right": int, "down": int}
        table = pd.DataFrame({"best": self.best, "left_out": self.left_out, **how}).astype(types)
        return table.assign(**{SIMILARITY + name: values for name, values in self.similarity.items()})


_NOTHING = Alignment(-1.0, False, 0, 0)


class Search:
    """All training images of a real Dataset, to look for copies among."""

    def __init__(self, real: SearchedImages) -> None:
        self.real, self.train = real, real.places("train")
        self._all_patients = real.rows["patient_id"].to_numpy(str)
        self.patients = self._all_patients[self.train]
        self._scale: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            name: unit if name == SPECTRA else Standard(stored.blocks(self.train))
            for name, stored in real.vectors.items()
        }

    def synthetic(self, seen: SearchedImages, places: np.ndarray) -> SearchResult:
        """The training images nearest to the synthetic images at these places."""
        return self._compare(self._near(seen, places), lambda rows: seen.thumbnails.take(places[rows]))

    def held_out(self, places: np.ndarray) -> SearchResult:
        """The same of real images, none of whose patients is in training."""
        return self._real(self._near(self.real, places), places)

    def others(self, places: np.ndarray) -> SearchResult:
        """The same of training images, each to those of other patients. Places are among all real images."""
        own = self._all_patients[places]
        return self._real(self._near(self.real, places, own), places)

    def planted(self, embedding: str, vectors: np.ndarray, thumbnails: np.ndarray) -> SearchResult:
        """The same of images that lie on no disk, as one embedding sees them."""
        return self._compare({embedding: self._nearest(embedding, vectors)}, lambda rows: thumbnails[rows])

    def _near(self, seen: SearchedImages, places: np.ndarray, own: np.ndarray | None = None) -> "_Near":
        return {name: self._nearest(name, stored.take(places), own) for name, stored in seen.vectors.items()}

    def _nearest(
        self, embedding: str, vectors: np.ndarray, own: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and places (n, CANDIDATES) of the nearest to each vector, its `own` patient left out."""
        stored, scale = self.real.vectors[embedding], self._scale[embedding]
        # However many images a patient has, so many more are asked for that others are among them.
        k = CANDIDATES + (0 if own is None else _most(own, self.patients))
        similarity, places = nearest(scale(vectors), lambda: map(scale, stored.blocks(self.train)), k)
        if own is not None:
            similarity[self.patients[places] == own[:, None]] = -np.inf
            order = np.argsort(-similarity, axis=1, kind="stable")[:, :CANDIDATES]
            similarity, places = (np.take_along_axis(part, order, axis=1) for part in (similarity, places))
        return similarity, np.where(np.isfinite(similarity), places, -1)

    def _real(self, near: "_Near", places: np.ndarray) -> SearchResult:
        """`_compare`, without candidates that are the image itself under another name."""
        return self._compare(near, lambda rows: self.real.thumbnails.take(places[rows]), NEAR_IDENTICAL)

    def _compare(
        self, near: "_Near", thumbnails: Callable[[np.ndarray], np.ndarray], most: float = np.inf
    ) -> SearchResult:
        """Align each image with its candidates, and leave out those above `most`."""
        candidates = np.concatenate([places for _, places in near.values()], axis=1)
        out, best, how = np.zeros(candidates.shape, bool), np.empty(len(candidates), int), []
        with bar("alignment", len(candidates)) as progress:
            for start in range(0, len(candidates), _AT_ONCE):
                rows = np.arange(start, min(start + _AT_ONCE, len(candidates)))
                aligned = self._align(thumbnails(rows), candidates[rows])
                scores = np.array([[each.score for each in row] for row in aligned])
                out[rows] = scores > most
                best[rows] = np.where(out[rows], -2, scores).argmax(axis=1)
                how += [
                    _NOTHING if out[i, best[i]] else row[best[i]] for i, row in zip(rows.tolist(), aligned, strict=True)
                ]
                progress.advance(len(rows))
        kept = {
            name: np.where(part, -1, similarity).max(axis=1)
            for (name, (similarity, _)), part in zip(near.items(), np.split(out, len(near), axis=1), strict=True)
        }
        chosen = candidates[np.arange(len(best)), best]
        return SearchResult(kept, candidates, chosen, tuple(how), np.asarray(out.any(axis=1)))

    def _align(self, thumbnails: np.ndarray, candidates: np.ndarray) -> list[list[Alignment]]:
        """Each thumbnail with each of its candidates; a place of -1 aligns with nothing."""
        needed = np.unique(candidates[candidates >= 0])
        reliefs = dict(zip(needed.tolist(), map(relief, self.real.thumbnails.take(self.train[needed])), strict=True))
        found = []
        for thumb, row in zip(thumbnails, candidates.tolist(), strict=True):
            mine = relief(thumb)
            aligned = {place: align(mine, reliefs[place]) for place in set(row) if place >= 0}
            found.append([aligned.get(place, _NOTHING) for place in row])
        return found


_Near: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each embedding the similarities and places (n, CANDIDATES) of the nearest training images."""


def _most(patients: np.ndarray, among: np.ndarray) -> int:
    """The most images that any of these patients has among some."""
    names, sizes = np.unique(among, return_counts=True)
    return int(sizes[np.isin(names, patients)].max(initial=0))
