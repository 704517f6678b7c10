"""Which images stand against each other in precision, recall, density and coverage, and what these are."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
from scipy.stats import beta

from cxr_core.evaluation.diversity.prdc import Prdc, prdc_of_halves
from cxr_core.evaluation.diversity.results import Spread
from cxr_core.evaluation.diversity.settings import Diversity
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.mix import CELL, halves
from cxr_core.evaluation.pools import in_hash_order

_NEEDED = 10
"""Images that are needed, in numbers of neighbours."""


def matched(sides: Sequence[FeatureRows], seed: int) -> list[np.ndarray]:
    """Features of each side: one image a patient, and of each labels and view as many as the side with the fewest has.

    So all sides have one n and one mix; which images stand for a cell is decided by their hash.
    """
    ordered = [_one_a_patient(side.rows, seed) for side in sides]
    fewest = pd.concat([rows.value_counts(CELL) for rows in ordered], axis=1).fillna(0).min(axis=1)
    kept = [rows[rows.groupby(CELL).cumcount() < fewest.loc[_cells(rows)].to_numpy()] for rows in ordered]
    return [side.features[rows.index] for side, rows in zip(sides, kept, strict=True)]


def spread(sides: Sequence[np.ndarray], settings: Diversity, seed: int, withheld: str | None = None) -> Spread:
    """Of `matched` real and synthetic features (n, width), or why there are no numbers."""
    real, synthetic = sides
    num, k = len(real), settings.neighbours
    short = num < _NEEDED * k and f"n = {num}, {_NEEDED * k} are needed ({_NEEDED} x k)"
    if reason := withheld or short:
        return Spread(num_images=num, not_computed=reason)
    found = prdc_of_halves(real, synthetic, k, settings.num_resamples, seed)
    each = {field.name: _interval(np.array([getattr(one, field.name) for one in found])) for field in fields(Prdc)}
    return Spread(
        num_images=num,
        precision=_of_share(each["precision"], num),
        recall=_of_share(each["recall"], num),
        density=each["density"],
        coverage=_of_share(each["coverage"], num),
    )


def _interval(values: np.ndarray) -> Interval:
    """The first value, with the spread of those of halves around their mean, 0 at least.

    Half as many images may shift a number; that shift is no part of the interval.
    """
    value, drawn = float(values[0]), values[1:]
    low, high = value + np.percentile(drawn, (2.5, 97.5)) - drawn.mean()
    return Interval(value=value, low=min(value, max(float(low), 0.0)), high=max(value, float(high)))


def _of_share(found: Interval, num: int) -> Interval:
    """At least as wide as that of a share of so many images under Jeffreys' prior: all of 50 is no proof of all."""
    hits = found.value * num
    low, high = beta.ppf((0.025, 0.975), hits + 0.5, num - hits + 0.5)
    return Interval(
        value=found.value,
        low=min(found.low, float(low)) if hits else 0.0,
        high=min(1.0, max(found.high, float(high))) if hits < num else 1.0,
    )


def beside_floor(
    held_out: FeatureRows, synthetic: FeatureRows, settings: Diversity, seed: int, withheld: str | None = None
) -> tuple[Spread, Spread]:
    """Synthetic images, and the second half of the held-out patients, against the first half: the same n and mix."""
    sides = [held_out.where(half) for half in halves(held_out.rows["patient_id"], seed)]
    first, second, drawn = matched([*sides, synthetic], seed)
    ours, floor = (spread((first, other), settings, seed, withheld) for other in (drawn, second))
    return ours, floor


def _one_a_patient(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows by hash, indexed by their places, the first of each patient; a synthetic image is its own."""
    ordered = in_hash_order(rows.reset_index(drop=True), seed, "diversity")
    owner = ordered["patient_id"].where(ordered["patient_id"] != "", ordered["image_id"])
    return ordered[~owner.duplicated()]


def _cells(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[CELL])
