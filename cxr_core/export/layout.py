"""What a form of export decides: where an image's file lies, what is in it, and the tables beside the files."""

from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cxr_core.data.dataset import Dataset

FILES_A_FOLDER = 10_000
"""More files in one folder make file systems of clusters slow; NIH's own folders hold about as many."""


class Layout(Protocol):
    """One form, of one Dataset."""

    def path(self, number: int, row: Any) -> str:
        """Where the file of the image `row` (a namedtuple of the index), counted from 0, lies in the folder."""

    def content(self, row: Any) -> bytes:
        """The bytes of that file: the same for the same row."""

    def finish(self, folder: Path) -> None:
        """Write the tables beside the files."""


def plain_columns(dataset: Dataset) -> pd.DataFrame:
    """The index as plain columns for a CSV file: labels as `Effusion|Mass`, a column of 0 and 1 for each finding, and
    whether the images are synthetic."""
    rows = dataset.rows
    plain = rows[["image_id", "patient_id", "split", "view", "age", "sex", "prompt", "seed", "generation"]].copy()
    plain.insert(1, "labels", [dataset.findings.text(bits) for bits in rows["labels"]])
    plain["seed"] = plain["seed"].astype("Int64")
    plain["synthetic"] = dataset.info.synthetic
    matrix = dataset.label_matrix(rows).astype(int)
    return pd.concat([plain, pd.DataFrame(matrix, columns=list(dataset.findings.names), index=rows.index)], axis=1)
