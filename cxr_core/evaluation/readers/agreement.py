"""Shares with their intervals, and how far readers agree beyond chance.

statsmodels has the kappas too, and brings 66 MB; it gives NaN where chance alone gives full agreement.
"""

import numpy as np
from scipy.stats import binomtest

from cxr_core.evaluation.interval import Interval


def share(num: int, of: int) -> Interval | None:
    """A share with its 95 % interval (Wilson 1927, J. Am. Stat. Assoc. 22:209); None of nothing."""
    if of == 0:
        return None
    bounds = binomtest(num, of).proportion_ci(0.95, method="wilson")
    return Interval(value=num / of, low=float(bounds.low), high=float(bounds.high))


def cohen_kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    """Agreement of two readers beyond chance (Cohen 1960, Educ. Psychol. Meas. 20:37); answers are bool (items,).

    None where there is no item, or where chance alone gives full agreement, as when both always say the same.
    """
    if not len(one):
        return None
    by_chance = one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())
    return _beyond(float((one == other).mean()), float(by_chance))


def fleiss_kappa(answers: np.ndarray) -> float | None:
    """Agreement of all readers beyond chance (Fleiss 1971, Psychol. Bull. 76:378); answers are bool (readers, items).

    None for fewer than two readers, no item, or where chance alone gives full agreement.
    """
    num_readers, num_items = answers.shape
    if num_readers < 2 or not num_items:
        return None
    yes = answers.sum(axis=0)
    counts = np.stack([yes, num_readers - yes], axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (num_readers * (num_readers - 1))
    shares = counts.sum(axis=0) / counts.sum()
    return _beyond(float(agreeing.mean()), float((shares**2).sum()))


def _beyond(seen: float, by_chance: float) -> float | None:
    return (seen - by_chance) / (1 - by_chance) if by_chance < 1 else None
