"""Accuracy and AUROC of the scores that a classifier gives to weighted images."""

import numpy as np


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
    ordered, is_positive = weights[..., order], labels[order] == 1
    positive = np.cumsum(ordered * is_positive, axis=-1)[..., ends]
    negative = np.cumsum(ordered * ~is_positive, axis=-1)[..., ends]
    gained = np.diff(positive, axis=-1, prepend=0)
    below = negative - np.diff(negative, axis=-1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return (gained * below).sum(axis=-1) / (positive[..., -1] * negative[..., -1])
