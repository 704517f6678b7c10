"""The judge's trial: how well it tells each finding on held-out real patients, and where it may speak at all.

Views are a shortcut: where Edema is mostly taken AP, a classifier of the view seems to know Edema. So a judge is tried
within each view, and says nothing of synthetic images of a view in which it fails.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.errors import UserError
from cxr_core.evaluation.intervals import Contrast, auroc_intervals, view_rule
from cxr_core.evaluation.metrics import Histogram, Interval, Trial
from cxr_core.evaluation.pools import has_finding
from cxr_core.evaluation.settings import Faithfulness

POOLED = "pooled"
UNKNOWN_VIEW = "unknown view"
NUM_BINS = 20


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Images (rows of a Dataset) with the judge's scores in 0..1, (n, findings), in the same order."""

    rows: pd.DataFrame
    scores: np.ndarray
    findings: tuple[str, ...]
    vocabulary: Findings

    @classmethod
    def of(
        cls, rows: pd.DataFrame, scores: np.ndarray, findings: Sequence[str], vocabulary: Findings, *, what: str
    ) -> "JudgedImages":
        """Put the images in the order of their ids. Raises UserError naming an image whose score is no probability."""
        assert scores.shape == (len(rows), len(findings)), (scores.shape, len(rows), len(findings))
        wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)).all(axis=1))
        if len(wrong):
            raise UserError(
                f"the judge gave no probability to {len(wrong)} of {len(rows)} {what} images, "
                f"the first {rows['image_id'].iloc[wrong[0]]!r}",
                where="faithfulness",
                hint="train the judge again, or take an earlier checkpoint: its weights are likely not finite",
            )
        order = np.argsort(rows["image_id"].to_numpy(dtype=str), kind="stable")
        return cls(rows.iloc[order].reset_index(drop=True), scores[order], tuple(findings), vocabulary)

    def only(self, mask: np.ndarray) -> "JudgedImages":
        """Some of the images."""
        return JudgedImages(self.rows[mask].reset_index(drop=True), self.scores[mask], self.findings, self.vocabulary)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def views(self) -> np.ndarray:
        """The view of each image, `UNKNOWN_VIEW` where there is none."""
        return np.array([view or UNKNOWN_VIEW for view in self.rows["view"]], dtype=object)

    @cached_property
    def patients(self) -> np.ndarray:
        """A number for each image's patient."""
        return np.unique(self.rows["patient_id"].to_numpy(dtype=str), return_inverse=True)[1]

    def within(self, place: str) -> np.ndarray:
        """Which images are of a view, bool (n,); all for `POOLED`."""
        return np.ones(len(self), bool) if place == POOLED else self.views == place

    def having(self, finding: str) -> np.ndarray:
        """Which images have the finding, alone or among others: bool (n,)."""
        return has_finding(self.rows["labels"], finding, "any", self.vocabulary).to_numpy(bool)

    def score(self, finding: str) -> np.ndarray:
        """The judge's score of one finding: (n,)."""
        return self.scores[:, self.findings.index(finding)]

    def count(self, finding: str, place: str) -> tuple[int, int]:
        """Images of a view with and without the finding."""
        inside, having = self.within(place), self.having(finding)
        return int((inside & having).sum()), int((inside & ~having).sum())

    def histogram(self, finding: str, place: str) -> Histogram:
        """Of the scores of one finding within a view."""
        inside, having, score = self.within(place), self.having(finding), self.score(finding)
        both = (np.histogram(score[inside & which], NUM_BINS, (0, 1))[0].tolist() for which in (having, ~having))
        return Histogram(**dict(zip(("having", "lacking"), map(tuple, both), strict=True)))


def places(*sides: JudgedImages) -> tuple[str, ...]:
    """Where contrasts are made: `POOLED`, AP, PA, and any other view that images of some side have."""
    others = {view for side in sides for view in side.views} - {"AP", "PA"}
    return (POOLED, "AP", "PA", *sorted(others))


def try_judge(
    held_out: JudgedImages,
    train: JudgedImages,
    findings: Sequence[str],
    where: Sequence[str],
    settings: Faithfulness,
    seed: int,
) -> dict[str, tuple[Trial, ...]]:
    """Try the judge on held-out real images: each finding's trials, in the order of the places `where`.

    `train` are real training images, for the view-only baseline alone; where there are none the baseline is fitted on
    the held-out images, the best that it can be. Intervals are over patients.
    """
    contrasts = {}
    for finding in findings:
        for place in where:
            if too_few(finding, *held_out.count(finding, place), settings.min_images) is None:
                weights = held_out.within(place).astype(float)
                contrasts[finding, place] = Contrast(held_out.score(finding), held_out.having(finding), weights)
                if place == POOLED:
                    view = view_score(held_out, train, finding)
                    contrasts[finding, _VIEW_ONLY] = Contrast(view, held_out.having(finding), weights)
    computed = auroc_intervals(list(contrasts.values()), held_out.patients, seed, settings.num_resamples)
    intervals = dict(zip(contrasts, computed, strict=True))
    return {name: tuple(_trial(held_out, name, place, intervals, settings) for place in where) for name in findings}


_VIEW_ONLY = "view only"


def view_score(held_out: JudgedImages, train: JudgedImages, finding: str) -> np.ndarray:
    """P(finding | view) for each held-out image, as the training images have it."""
    fitted = train if len(train) else held_out
    return view_rule(fitted.views, fitted.having(finding), held_out.views)


def _trial(
    held_out: JudgedImages,
    finding: str,
    place: str,
    intervals: Mapping[tuple[str, str], Interval],
    settings: Faithfulness,
) -> Trial:
    inside = held_out.within(place)
    num_with, num_without = held_out.count(finding, place)
    auroc = intervals.get((finding, place))
    return Trial(
        within=place,
        num_with=num_with,
        num_without=num_without,
        num_patients=len(np.unique(held_out.patients[inside])),
        num_patients_with=len(np.unique(held_out.patients[inside & held_out.having(finding)])),
        auroc=auroc,
        view_only=intervals.get((finding, _VIEW_ONLY)) if place == POOLED else None,
        refused=_gate(finding, place, num_with, num_without, auroc, settings),
        histogram=held_out.histogram(finding, place),
    )


def _gate(
    finding: str, place: str, num_with: int, num_without: int, auroc: Interval | None, settings: Faithfulness
) -> str | None:
    """Why the judge may not speak here: "refused within AP: AUROC 0.61, lower bound 0.52 is below 0.70"."""
    if auroc is None:
        few = too_few(finding, num_with, num_without, settings.min_images)
        assert few is not None, "an AUROC is left out only where there are too few images"
        return refusal(place, few)
    if auroc.low < settings.min_auroc:
        low = math.floor(100 * auroc.low) / 100  # rounding up could print "0.70 is below 0.70"
        return refusal(place, f"AUROC {auroc.value:.2f}, lower bound {low:.2f} is below {settings.min_auroc:.2f}")
    return None


def too_few(
    finding: str, num_with: float, num_without: float, needed: int, kind: str = "", after: str = ""
) -> str | None:
    """ "4 images with Hernia, 10 are needed", or None where there are enough of both."""
    for word, num in (("with", num_with), ("without", num_without)):
        if num < needed:
            noun = f"{kind} image{'' if num == 1 else 's'}".strip()
            number = f"{num}" if isinstance(num, int) else f"{math.floor(10 * num) / 10:.1f}"
            return f"{number} {noun} {word} {finding}{after}, {needed} are needed"
    return None


def refusal(place: str, reason: str) -> str:
    """A reason with where it holds."""
    return f"refused {place if place == POOLED else f'within {place}'}: {reason}"
