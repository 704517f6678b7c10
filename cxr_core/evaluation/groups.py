"""Groups of real patients for whom numbers are given apart: by sex, age and view of the image."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

By = Literal["sex", "age", "view"]

AGES = (("0-17", 0, 18), ("18-39", 18, 40), ("40-64", 40, 65), ("65 and older", 65, np.inf))
"""Name, and years from and below."""


def groups(rows: pd.DataFrame) -> Iterator[tuple[By, str, np.ndarray]]:
    """What groups, which group, and bool (n,): of rows with sex, age and view; who is in no group is left out."""
    for sex in ("F", "M"):
        yield "sex", sex, (rows["sex"] == sex).to_numpy(bool)
    age = rows["age"].to_numpy(float)
    for name, low, high in AGES:
        yield "age", name, (age >= low) & (age < high)
    for view in ("AP", "PA"):
        yield "view", view, (rows["view"] == view).to_numpy(bool)
