"""Which images stand against each other in precision, recall, density and coverage, and what these are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_core.evaluation.diversity.prdc import prdc
from cxr_core.evaluation.diversity.results import Spread
from cxr_core.evaluation.featured import Featured
from cxr_core.evaluation.mix import CELL, halves
from cxr_core.evaluation.pools import in_hash_order

_NEEDED = 10
"""Images that are needed, in numbers of neighbours."""


def matched(sides: Sequence[Featured], seed: int) -> list[np.ndarray]:
    """Features of each side: one image a patient, and of each labels and view as many as the side with the fewest has.

    So all sides have one n and one mix; which images stand for a cell is decided by their hash.
    """
    ordered = [_one_a_patient(side.rows, seed) for side in sides]
    fewest = pd.concat([rows.value_counts(CELL) for rows in ordered], axis=1).fillna(0).min(axis=1)
    kept = [rows[rows.groupby(CELL).cumcount() < fewest.loc[_cells(rows)].to_numpy()] for rows in ordered]
    return [side.features[rows.index] for side, rows in zip(sides, kept, strict=True)]


def spread(sides: Sequence[np.ndarray], neighbours: int, withheld: str | None = None) -> Spread:
    """Of `matched` real and synthetic features (n, width), or why there are no numbers."""
    real, synthetic = sides
    num = len(real)
    short = num < _NEEDED * neighbours and f"n = {num}, {_NEEDED * neighbours} are needed ({_NEEDED} x k)"
    if reason := withheld or short:
        return Spread(num_images=num, not_computed=reason)
    return Spread(num_images=num, **vars(prdc(real, synthetic, neighbours)))


def beside_floor(
    held_out: Featured, synthetic: Featured, neighbours: int, seed: int, withheld: str | None = None
) -> tuple[Spread, Spread]:
    """Synthetic images, and the second half of the held-out patients, against the first half: the same n and mix."""
    sides = [held_out.where(half) for half in halves(held_out.rows["patient_id"], seed)]
    first, second, drawn = matched([*sides, synthetic], seed)
    return spread((first, drawn), neighbours, withheld), spread((first, second), neighbours, withheld)


def _one_a_patient(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows by hash, indexed by their places, the first of each patient; a synthetic image is its own."""
    ordered = in_hash_order(rows.reset_index(drop=True), seed, "diversity")
    owner = ordered["patient_id"].where(ordered["patient_id"] != "", ordered["image_id"])
    return ordered[~owner.duplicated()]


def _cells(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[CELL])
