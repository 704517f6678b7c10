"""How many synthetic images are beyond a percentile of real ones, with its interval."""

import numpy as np

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import resamples
from cxr_core.seeds import derive_seed

_NUM_RESAMPLES = 1000


def images_needed(percentile: float) -> int:
    """Held-out images without which a percentile is but their largest value: 1,000 for 99.9."""
    return round(1 / (1 - percentile / 100))


def share_above(
    synthetic: np.ndarray, held_out: np.ndarray, patients: np.ndarray, percentile: float, seed: int
) -> tuple[Interval, int, Interval]:
    """The percentile of `held_out` (n,), how many of `synthetic` (m,) are above it, and their share.

    The threshold is the smallest value that at least so many percent of the held-out images do not exceed; its interval
    is over `patients` (n,). The share's interval is over these thresholds and the chance of m images: for each
    threshold a share is drawn from its posterior under Jeffreys' prior, Beta(k + 1/2, m - k + 1/2), so that none of m
    is no proof of 0.
    """
    order = np.argsort(held_out, kind="stable")
    ordered, whole = held_out[order], np.ones((1, len(held_out)))
    blocks = [whole, *resamples(patients, derive_seed(seed, "threshold"), _NUM_RESAMPLES)]
    thresholds = np.concatenate([_percentile(ordered, counts[:, order], percentile) for counts in blocks])
    above = (len(synthetic) - np.searchsorted(np.sort(synthetic), thresholds, side="right")).astype(int)
    shares = np.random.default_rng(derive_seed(seed, "share")).beta(above + 0.5, len(synthetic) - above + 0.5)[1:]
    share = above[0] / len(synthetic)
    low, high = np.percentile(shares, (2.5, 97.5))
    return (
        _interval(thresholds[0], *np.percentile(thresholds[1:], (2.5, 97.5))),
        int(above[0]),
        _interval(share, low if above[0] else 0.0, high if above[0] < len(synthetic) else 1.0),
    )


def _percentile(ordered: np.ndarray, counts: np.ndarray, percentile: float) -> np.ndarray:
    """Of ascending values (n,), each counted as often as `counts` (resamples, n) say: (resamples,)."""
    passed = np.cumsum(counts, axis=1)
    needed = passed[:, -1:] * percentile / 100
    return ordered[(passed < needed - 1e-9).sum(axis=1)]


def _interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=float(value), low=float(min(low, value)), high=float(max(high, value)))
