"""Held-out images with weights under which the view tells nothing of a finding."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeldOutImages:
    """Test images: `labels` bool (n, findings), `weights` >= 0 of the same shape (0 leaves out), `patients` (n,)."""

    labels: np.ndarray
    weights: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, views: np.ndarray, patients: np.ndarray, *, match_views: bool) -> "HeldOutImages":
        """With `match_views`, images without a finding weigh so that their views are those of images with it."""
        weights = np.ones(labels.shape)
        if match_views:
            weights = np.stack([_matched(having, views) for having in labels.T], axis=1)
        return cls(labels, weights, patients)

    def count(self, finding: int) -> tuple[int, int]:
        """Images with a finding and without that weigh anything."""
        having, counted = self.labels[:, finding], self.weights[:, finding] > 0
        return int((having & counted).sum()), int((~having & counted).sum())


def _matched(having: np.ndarray, views: np.ndarray) -> np.ndarray:
    """1 for images with a finding; for others of their view as many in all. A view without others is left out."""
    weights = np.zeros(len(having))
    for view in np.unique(views):
        inside = views == view
        num_with, num_without = (inside & having).sum(), (inside & ~having).sum()
        if num_with and num_without:
            weights[inside] = np.where(having[inside], 1.0, num_with / num_without)
    return weights
