"""Two-level bootstrap: AUROCs of many classifiers under the same resamples of test patients, then of training seeds."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from scipy.stats import norm

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import Contrast, percentiles, resamples, unseen
from cxr_core.evaluation.matched import HeldOutImages
from cxr_core.seeds import derive_seed

_ROUNDING = 1e-9


def resampled_aurocs(
    scores: Mapping[str, np.ndarray], test: HeldOutImages, computed: Sequence[int], seed: int, num: int
) -> dict[str, np.ndarray]:
    """AUROCs of each arm: (seeds, findings computed + 1, 1 + num), on all images and then on each resample of patients.

    `scores` are (seeds, n, findings) an arm; `computed` are columns that have images with and without. The last entry
    along the second axis is the mean over findings. NaN where a resample leaves a class empty; the mean is then over
    the others.
    """
    contrasts = {
        arm: [[Contrast(one[:, f], test.labels[:, f], test.weights[:, f]) for f in computed] for one in given]
        for arm, given in scores.items()
    }
    found: dict[str, list[np.ndarray]] = {arm: [] for arm in scores}
    for block in chain([np.ones((1, len(test.patients)), int)], resamples(test.patients, seed, num)):
        counts = np.ascontiguousarray(block.T)
        for arm, given in contrasts.items():
            found[arm].append(np.array([[each.aurocs(counts) for each in one] for one in given]))
    whole = {arm: np.concatenate(parts, axis=2) for arm, parts in found.items()}
    return {arm: np.concatenate([v, _mean_known(v)], axis=1) for arm, v in whole.items()}


def _mean_known(values: np.ndarray) -> np.ndarray:
    """The mean along the second axis of what is not NaN, which keeps its axis; NaN of none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)


class Seeds:
    """Resamples of training seeds, the same for all arms, so that differences are paired.

    Of k seeds k - 1 are drawn: the variance of their mean is then right for few seeds too (Rao and Wu 1988, J. Am.
    Stat. Assoc. 83:231), where k drawn ones would make it too small by (k - 1) / k. With one seed, intervals are over
    patients alone.
    """

    def __init__(self, num_seeds: int, num_resamples: int, seed: int) -> None:
        generator = np.random.default_rng(derive_seed(seed, "training seeds"))
        self._drawn = generator.integers(num_seeds, size=(num_resamples, max(1, num_seeds - 1)))
        self._resamples = np.arange(1, num_resamples + 1)[:, None]

    def mean(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean over seeds of `values` (seeds, 1 + resamples): on all images, and drawn anew (resamples,)."""
        return float(values[:, 0].mean()), values[self._drawn, self._resamples].mean(axis=1)

    def interval(self, values: np.ndarray) -> Interval:
        """The mean with its 95 % percentile interval."""
        return percentiles(*self.mean(values))

    def p_value(self, values: np.ndarray, num_patients: int = 0) -> float:
        """Two-sided p of the mean being 0, from the resamples' standard deviation and the normal distribution.

        Not from their ranks: 1,000 resamples tell no p below 0.002, which many comparisons need. Resamples that do not
        vary tell none at all: the deviation is then what `num_patients` patients who are all alike leave open.
        """
        value, drawn = self.mean(values)
        spread = float(np.nanstd(drawn))
        if spread < _ROUNDING:
            spread = unseen(num_patients) / norm.ppf(0.975)
        return float(2 * norm.sf(abs(value) / spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Holm's step-down method (Holm 1979, Scand. J. Stat. 6:65).

    statsmodels has it too, and brings 66 MB for these five lines and Fleiss' kappa.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p_values) else steps
    return adjusted.tolist()
