"""Images with what an extractor gave for them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class FeatureRows:
    """Images with their features: rows with image_id, patient_id, split, view and labels; features (n, width)."""

    rows: pd.DataFrame
    features: np.ndarray

    def where(self, chosen: pd.Series | np.ndarray) -> "FeatureRows":
        """The images that a boolean array chooses."""
        kept = np.flatnonzero(chosen)
        return FeatureRows(self.rows.iloc[kept], self.features[kept])
