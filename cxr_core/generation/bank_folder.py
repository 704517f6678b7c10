"""A latent bank: latents of real images by their findings, with the names of these images.

A folder with `bank.json` and `bank.parquet` (a row an image: image_id, patient_id, labels, error, latent).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

import pandas as pd
from pydantic import ConfigDict
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.runs.door import Place, parse
from cxr_core.runs.files import write_json
from cxr_core.runs.tables import read_table

FORMAT = 1
ABOUT, ROWS = "bank.json", "bank.parquet"


_COLUMNS = ["image_id", "patient_id", "labels", "error", "latent"]


class _About(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    model: str
    digest: str
    boxed_split: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Bank:
    """An open bank; `model` is the sha256 of the PG-GAN that its latents are of."""

    folder: Path
    model: str
    digest: str
    boxed_split: Mapping[str, Any] | None = None
    """Test patients who were moved into the training images of its Dataset."""

    @classmethod
    def open(cls, folder: Path) -> "Bank":
        """Raises UserError where the folder is no finished bank."""
        path = folder / ABOUT
        if not path.is_file():
            raise UserError("no finished invert stage: it has no bank.json", where=str(folder))
        text = Place(folder).read(path.name)
        number = parse(text, dict[str, Any], path).get("format")
        if number != FORMAT:
            raise UserError(f"format {number!r}, but this version reads {FORMAT}", where=str(path))
        about = parse(text, _About, path)
        return cls(folder, about["model"], about["digest"], about.get("boxed_split"))

    @cached_property
    def rows(self) -> pd.DataFrame:
        return read_table((Place(self.folder), ROWS), columns=_COLUMNS).to_pandas()

    def of(self, labels: int) -> pd.DataFrame:
        """Rows of images with exactly these labels."""
        return self.rows[self.rows["labels"] == labels]


def write_bank(folder: Path, rows: pd.DataFrame, about: dict[str, object]) -> None:
    """Write both files; `about` holds at least `model` and `digest`."""
    rows.to_parquet(folder / ROWS, index=False)
    write_json(folder / ABOUT, {"format": FORMAT, **about})
