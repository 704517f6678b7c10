"""The exchange rate: how many real images one synthetic image is worth, read from the learning curve of real images.

The curve is AUROC against the logarithm of the number of real images, fitted by isotonic regression (it never falls)
and straight between its points. The arm's AUROC is looked up on it: the smallest number of real images that reach it.
Nothing is extrapolated; beyond the curve the answer is a bound.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression

from cxr_core.evaluation.benefit.bootstrap import Seeds
from cxr_core.evaluation.benefit.results import ExchangeRate
from cxr_core.evaluation.intervals import percentiles

_LEAST_POINTS = 3


def exchange_rate(
    arm: str,
    finding: str,
    counts: tuple[int, int],
    curve: Mapping[int, np.ndarray],
    values: np.ndarray,
    seeds: Seeds,
) -> ExchangeRate:
    """The rate of one arm with `counts` of (real, synthetic) images.

    `curve` maps the number of real images to AUROCs (seeds, 1 + resamples), `values` are the arm's. Each resample fits
    the curve anew, so the interval has the noise of both.
    """
    known: dict[str, Any] = {"arm": arm, "finding": finding}
    if reason := _refusal(curve, seeds):
        return ExchangeRate(**known, not_computed=reason)
    num = np.array(sorted(curve))
    points = [seeds.mean(curve[n]) for n in num]
    value, drawn = seeds.mean(values)
    heights = np.stack([np.append(point, drawn_at) for point, drawn_at in points], axis=1)
    equal = np.array([equivalent(num, *each) for each in zip(heights, np.append(value, drawn), strict=True)])
    rates = (equal - counts[0]) / counts[1]
    interval = percentiles(float(rates[0]), rates[1:])
    ends = (num[[0, -1]] - counts[0]) / counts[1]
    bound: Literal["at_least", "at_most"] | None = None
    if rates[0] <= ends[0] or rates[0] >= ends[1]:
        bound = "at_most" if rates[0] <= ends[0] else "at_least"
    return ExchangeRate(
        **known,
        rate=interval,
        bound=bound,
        low_is_bound=interval.low <= ends[0],
        high_is_bound=interval.high >= ends[1],
    )


def equivalent(num: np.ndarray, heights: np.ndarray, wanted: float) -> float:
    """The smallest number of real images at which the monotone curve through (num, heights) reaches `wanted`.

    The curve's ends where it is never below, or never reached.
    """
    fitted = isotonic_regression(heights).x
    if wanted <= fitted[0] or wanted > fitted[-1]:
        return float(num[0] if wanted <= fitted[0] else num[-1])
    right = int(np.searchsorted(fitted, wanted, side="left"))
    share = (wanted - fitted[right - 1]) / (fitted[right] - fitted[right - 1])
    return float(np.exp(np.log(num[right - 1]) + share * np.log(num[right] / num[right - 1])))


def _refusal(curve: Mapping[int, np.ndarray], seeds: Seeds) -> str | None:
    """Too few points, or a curve that does not rise beyond noise: then any number of images reaches any AUROC."""
    if len(curve) < _LEAST_POINTS:
        return f"{len(curve)} points of the learning curve, {_LEAST_POINTS} are needed"
    least, most = min(curve), max(curve)
    rise = seeds.interval(curve[most] - curve[least])
    if rise.low <= 0:
        return (
            f"the learning curve is flat within noise: from {least:,} to {most:,} real images AUROC changes by "
            f"{rise.value:+.3f} ({rise.low:+.3f} to {rise.high:+.3f})"
        )
    return None
