"""Accuracy and AUROC on weighted images, and bootstrap intervals that resample patients and training seeds."""

from collections.abc import Sequence

import numpy as np

from cxr_core.evaluation.metrics import Interval, Scores
from cxr_core.seeds import derive_seed

NUM_RESAMPLES = 1000
_AT_ONCE = 100
"""Resamples computed together: memory is this times the number of test images."""


def accuracy(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of right decisions at the threshold 0.5; a score of exactly 0.5 is a coin and counts half.

    `scores` in 0..1 and `labels` in {0, 1} have n values, `weights` is (..., n). Returns an array of shape (...).
    """
    right = np.where(scores == 0.5, 0.5, (scores > 0.5) == (labels == 1))
    return weights @ right / weights.sum(axis=-1)


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Shapes as for `accuracy`. NaN where the weights leave one class empty.
    """
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) > 0, True))  # last of each run of equal scores
    positive = np.cumsum(weights[..., order] * (labels[order] == 1), axis=-1)[..., ends]
    negative = np.cumsum(weights[..., order] * (labels[order] == 0), axis=-1)[..., ends]
    gained = np.diff(positive, axis=-1, prepend=0)
    below = negative - np.diff(negative, axis=-1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return (gained * below).sum(axis=-1) / (positive[..., -1] * negative[..., -1])


def patient_weights(patients: np.ndarray, seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """How often each image counts in each resample of whole patients: (num_resamples, n)."""
    _, which = np.unique(patients, return_inverse=True)
    num = int(which.max()) + 1
    drawn = np.random.default_rng(derive_seed(seed, "patients")).multinomial(num, np.full(num, 1 / num), num_resamples)
    return drawn[:, which]


class Bootstrap:
    """Resamples of one test set and one list of training seeds, the same for all arms, so that arms can be paired."""

    def __init__(self, labels: np.ndarray, patients: np.ndarray, num_seeds: int, seed: int) -> None:
        self.labels = labels
        self._weights = patient_weights(patients, seed)
        generator = np.random.default_rng(derive_seed(seed, "training seeds"))
        self._seeds = generator.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds))

    def one(self, scores: np.ndarray) -> Scores:
        """Of one classifier, or of a rule: the intervals are over patients."""
        return self._scores(self._values([scores]), np.zeros((NUM_RESAMPLES, 1), int))

    def mean(self, scores: Sequence[np.ndarray]) -> Scores:
        """The mean over training seeds: the intervals are over seeds and patients."""
        return self._scores(self._values(scores), self._seeds)

    def difference(self, scores: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> Scores:
        """The mean of `scores` minus that of `base`, paired by seed and patient."""
        return self._scores(self._values(scores) - self._values(base), self._seeds)

    def _values(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """(metric, seed, 1 + NUM_RESAMPLES): on all test images, then on each resample."""
        whole = np.ones((1, len(self.labels)), int)
        parts = [whole, *(self._weights[i : i + _AT_ONCE] for i in range(0, NUM_RESAMPLES, _AT_ONCE))]
        return np.array(
            [
                [np.concatenate([metric(s, self.labels, w) for w in parts]) for s in scores]
                for metric in (accuracy, auroc)
            ]
        )

    def _scores(self, values: np.ndarray, seeds: np.ndarray) -> Scores:
        resamples = np.arange(NUM_RESAMPLES)[:, None]
        intervals = []
        for metric in values:
            drawn = metric[seeds, 1 + resamples].mean(axis=1)
            low, high = np.nanpercentile(drawn, (2.5, 97.5))
            intervals.append(Interval(value=float(metric[:, 0].mean()), low=float(low), high=float(high)))
        return Scores(accuracy=intervals[0], auroc=intervals[1])


def view_rule(train_views: np.ndarray, train_labels: np.ndarray, test_views: np.ndarray) -> np.ndarray:
    """The label from the view alone: for each test image, the share of positives among training images of its view.

    A view that training does not have scores 0.5. The threshold 0.5 on this score is the best decision per view.
    """
    shares = {view: float(train_labels[train_views == view].mean()) for view in np.unique(train_views)}
    return np.array([shares.get(view, 0.5) for view in test_views])
