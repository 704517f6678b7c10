"""Brier score, calibration error and reliability of the judge's scores, and its AUROC in groups of patients."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.evaluation.calibration.results import (
    Bin,
    CalibratedFinding,
    Calibration,
    CalibrationResult,
    JudgedGroup,
)
from cxr_core.evaluation.groups import groups
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import Contrast, auroc_intervals, not_degenerate, percentiles, resamples
from cxr_core.evaluation.matched import HeldOutImages
from cxr_core.evaluation.metrics import FaithfulnessResult
from cxr_core.evaluation.settings import Faithfulness
from cxr_core.evaluation.trial import POOLED, JudgedImages, too_few
from cxr_core.models.balance import unweighted
from cxr_core.seeds import derive_seed

NUM_BINS = 10
_NUM_DRAWS = 200
"""Draws of labels behind a floor."""


def measure_calibration(
    real: tuple[pd.DataFrame, np.ndarray],
    synthetic: tuple[pd.DataFrame, np.ndarray],
    vocabulary: Findings,
    trial: FaithfulnessResult,
    settings: Faithfulness,
    weights: np.ndarray | None,
    seed: int,
) -> CalibrationResult:
    """The judge's calibration on held-out real patients and, where it passed its `trial`, on synthetic images.

    `real` and `synthetic` are rows (of real ones with sex and age) and the judge's scores, a column for each finding
    of `trial`. `weights` (findings,) are those of images with a finding in the judge's training; null: there were none.
    """
    names = [one.finding for one in trial.findings]
    judged = {
        what: JudgedImages.of(
            rows, scores if weights is None else unweighted(scores, weights), names, vocabulary, what=what
        )
        for what, (rows, scores) in (("real", real), ("synthetic", synthetic))
    }
    held_out = judged["real"].only((judged["real"].rows["split"] == settings.split).to_numpy())
    refused = {one.finding: one.synthetic[0].refused if one.synthetic else _UNASKED for one in trial.findings}
    return CalibrationResult(
        split=settings.split,
        unweighted=weights is not None,
        findings=tuple(_finding(name, held_out, judged["synthetic"], refused[name], settings, seed) for name in names),
        groups=tuple(_groups(names, held_out, settings, seed)),
    )


_UNASKED = "no synthetic image was asked for with it"


def _finding(
    name: str, held_out: JudgedImages, images: JudgedImages, refused: str | None, settings: Faithfulness, seed: int
) -> CalibratedFinding:
    few = too_few(name, *held_out.count(name, POOLED), settings.min_images)
    lived = None if few else calibration(held_out, name, held_out.patients, settings.num_resamples, seed)
    made = None
    if refused is None:
        made = calibration(images, name, np.arange(len(images)), settings.num_resamples, derive_seed(seed, "synthetic"))
    return CalibratedFinding(
        finding=name, real=lived, real_not_computed=few, synthetic=made, synthetic_not_computed=refused
    )


def calibration(images: JudgedImages, finding: str, whose: np.ndarray, num: int, seed: int) -> Calibration:
    """Of one finding's scores; `whose` (n,) groups images that are resampled together."""
    score, having = images.score(finding).astype(float), images.having(finding)
    bins = _bins(score)
    num_with, num_without = images.count(finding, POOLED)
    drawn = np.concatenate([_errors(score, having, bins, counts) for counts in resamples(whose, seed, num)], axis=1)
    brier, ece = _errors(score, having, bins, np.ones((1, len(score))))[:, 0]
    inside, num_groups = [bins == i for i in np.unique(bins)], len(np.unique(whose))
    return Calibration(
        num_with=num_with,
        num_without=num_without,
        auroc=auroc_intervals([Contrast(score, having, np.ones(len(score)))], whose, seed, num)[0],
        brier=not_degenerate(percentiles(float(brier), drawn[0]), num_groups),
        ece=not_degenerate(percentiles(float(ece), drawn[1]), num_groups),
        ece_floor=_floor(score, bins, seed),
        bins=tuple(
            Bin(num_images=int(i.sum()), score=float(score[i].mean()), share=float(having[i].mean())) for i in inside
        ),
    )


def _bins(score: np.ndarray) -> np.ndarray:
    """The bin of each image, (n,): tenths in the order of the score, equal scores together."""
    edges = np.quantile(score, np.arange(1, NUM_BINS) / NUM_BINS)
    return np.searchsorted(edges, score, side="left")


def _errors(score: np.ndarray, having: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Brier score and calibration error in each resample: (2, resamples), for counts (resamples, n)."""
    total = counts.sum(axis=1)
    brier = counts @ (score - having) ** 2 / total
    # In a bin, |mean score - share| times its images is the distance of two sums.
    members = (bins[:, None] == np.arange(NUM_BINS)).astype(float)
    ece = np.abs((counts * (score - having)) @ members).sum(axis=1) / total
    return np.stack([brier, ece])


def _floor(score: np.ndarray, bins: np.ndarray, seed: int) -> float:
    """Mean calibration error where labels are drawn with exactly the probabilities that the scores say."""
    draw = np.random.default_rng(derive_seed(seed, "calibration floor"))
    once = np.ones((1, len(score)))
    return float(np.mean([_errors(score, draw.random(len(score)) < score, bins, once)[1] for _ in range(_NUM_DRAWS)]))


def _groups(names: list[str], held_out: JudgedImages, settings: Faithfulness, seed: int) -> Iterator[JudgedGroup]:
    for by, group, which in groups(held_out.rows):
        some = held_out.only(which)
        having = np.stack([some.having(name) for name in names], axis=1)
        matched = HeldOutImages.of(having, some.views.astype(str), some.patients, match_views=True)
        for i, name in enumerate(names):
            num_with, num_without = matched.count(i)
            few = too_few(name, num_with, num_without, settings.min_images)
            contrast = Contrast(some.score(name), matched.labels[:, i], matched.weights[:, i])
            auroc: Interval | None = None
            if few is None:
                auroc = auroc_intervals([contrast], some.patients, seed, settings.num_resamples)[0]
            yield JudgedGroup(
                by=by,
                group=group,
                finding=name,
                num_with=num_with,
                num_without=num_without,
                num_patients=len(np.unique(some.patients)),
                auroc=auroc,
                not_computed=few,
            )
