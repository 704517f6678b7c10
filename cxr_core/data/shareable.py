"""A Dataset as it may leave: a synthetic one with its public fields alone, a real one marked in every file."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from cxr_core.boundary import FIELDS, INTERNAL, public
from cxr_core.data.dataset import Dataset
from cxr_core.data.png import SYNTHETIC, decode_grey, encode_grey
from cxr_core.errors import UserError
from cxr_core.runs.files import canonical_json

_EMPTY: dict[str, Any] = {"age": float("nan"), "follow_up": None, "boxes": None}
"""Of columns whose empty value is no text."""


@dataclass(frozen=True)
class Shareable(Dataset):
    """PNGs are written anew from their pixels, so that nothing goes along in what else a file can hold."""

    @cached_property
    def rows(self) -> pd.DataFrame:
        rows = super().rows
        return _public_rows(rows) if self.info.synthetic else rows

    def png(self, row: Any) -> bytes:
        return encode_grey(self.image(row), self.mark)

    def image(self, row: Any) -> Any:
        return decode_grey(super().png(row), where=f"{row.shard}:{row.image_id}")

    @property
    def mark(self) -> str:
        """What each file says of itself."""
        return SYNTHETIC if self.info.synthetic else INTERNAL


def shareable(dataset: Dataset, *, internal: bool) -> Shareable:
    """The Dataset with what an export may hold. Raises UserError for real images that are not to stay `internal`, and
    for synthetic ones that show patients."""
    info = dataset.info
    if not info.synthetic and not internal:
        raise UserError(
            "holds images and ids of real patients, which must not leave",
            where=str(dataset.folder),
            hint="export a synthetic Dataset; for use inside alone, --internal exports this one and marks every file",
        )
    if info.synthetic:
        _refuse_patients(dataset)
        about = public("dataset.json about", info.about)
        if isinstance(prompts := about.get("prompts"), dict):
            about["prompts"] = public("prompts", prompts)
        info = replace(info, about=about)
    return Shareable(dataset.folder, info, dataset.barred)


def _refuse_patients(dataset: Dataset) -> None:
    """Raise UserError for a synthetic Dataset with what shows single patients."""
    series = [one for one in dataset.info.about.get("series") or () if isinstance(one, dict)]
    requests = [one["request"] for one in series if isinstance(one.get("request"), dict)]
    for has, what, hint in (
        (
            bool((dataset.rows["generation"] == "").any()),
            "holds images without a record of how they were generated, as real ones are, which must not leave",
            "export the Dataset of a generate stage",
        ),
        (
            any(one.get("bank") and one.get("from_bank") == "each" for one in series),
            "was drawn from the latents of single real images, which it shows again; it must not leave",
            "generate with `from_bank: gaussian`",
        ),
        (
            any(one.get("rare_captions") for one in requests),
            "was asked for by captions that few patients have, and tells them; it must not leave",
            "export images of another request",
        ),
    ):
        if has:
            raise UserError(what, where=str(dataset.folder), hint=hint)


def _public_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of patients emptied, and of a record of generation what is public. Where an image lies is still told to
    who reads it; exports do not write it."""
    emptied = {name: _empty(name, len(rows)) for name, kind in FIELDS["index.parquet"].items() if kind == "patient"}
    views = rows["view"].where(rows["view"].isin(["PA", "AP"]), "")
    made = {text: _public_generation(text) for text in rows["generation"].unique()}
    return rows.assign(**emptied, view=views, split="synthetic", generation=rows["generation"].map(made))


def _empty(name: str, num: int) -> Any:
    return [[] for _ in range(num)] if name == "boxes" else [_EMPTY.get(name, "")] * num


def _public_generation(text: str) -> str:
    """Its public keys. What is no JSON object, as we write it, says nothing."""
    try:
        made = json.loads(text)
        kept = public("generation", made)
        if "gate" in kept:
            kept["gate"] = public("generation gate", kept["gate"])
    except (ValueError, AttributeError, RecursionError):
        return ""
    return canonical_json(kept)
