"""Rare findings weigh more in training; what that does to a classifier's outputs, and how it is taken back."""

import numpy as np

_MOST_WEIGHT = 20.0
"""Of an image with a finding, where those without weigh 1."""


def positive_weights(num_with: np.ndarray, num_images: int) -> np.ndarray:
    """Images without a finding per image with it, within `_MOST_WEIGHT` and its inverse: float32 (num_findings,).

    `num_with` (num_findings,) are all above 0.
    """
    return ((num_images - num_with) / num_with).clip(1 / _MOST_WEIGHT, _MOST_WEIGHT).astype(np.float32)


def unweighted(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probabilities (n, num_findings) of a classifier that was trained with `weights`, as if it had been without.

    With weight w the loss is least where odds are w times as large as they are (Elkan 2001, IJCAI), so they are divided
    by it. The order of images stays.
    """
    return scores / (scores + weights * (1 - scores))
