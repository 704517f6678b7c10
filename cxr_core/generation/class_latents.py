"""The distribution of the latents of images with the same labels."""

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf


@dataclass(frozen=True)
class ClassLatents:
    """The normal distribution of the latents of a class: `mean` (w,) and `root` (w, w), of which root root' is the
    covariance."""

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def fit(cls, latents: np.ndarray) -> "ClassLatents":
        """Of latents (n, w): their mean, and their covariance shrunk towards a multiple of the identity.

        Shrunk by as much as is best in the mean (Ledoit and Wolf 2004, J. Multivariate Anal. 88:365): with fewer
        images than latents have numbers, the plain covariance knows only directions between these very images.
        """
        values = latents.astype(np.float64)
        covariance = LedoitWolf().fit(values).covariance_ if len(values) > 1 else np.zeros((values.shape[1],) * 2)
        strengths, directions = np.linalg.eigh(covariance)
        return cls(values.mean(axis=0), directions * np.sqrt(np.clip(strengths, 0, None)))

    def draw(self, normal: np.ndarray) -> np.ndarray:
        """Latents float32 (n, w) from numbers of a standard normal distribution (n, w)."""
        return (self.mean + normal @ self.root.T).astype(np.float32)
