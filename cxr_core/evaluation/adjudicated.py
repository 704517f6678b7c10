"""Labels that people gave to test images, read from a CSV: what text-mined labels are checked against."""

from pathlib import Path

import pandas as pd

from cxr_core.data.csvfile import Csv, row_number
from cxr_core.data.findings import JOIN, NO_FINDING, Findings, is_no_finding
from cxr_core.data.identity import composed
from cxr_core.data.lists import image_column, look_up_ids
from cxr_core.data.references import tidy
from cxr_core.data.table import refuse_duplicates
from cxr_core.errors import UserError

_LABELS = ("findings", "labels", "Finding Labels")


def read_adjudicated(path: Path, vocabulary: Findings) -> pd.Series:
    """Labels (bits of `vocabulary`) by image, as the file names it, of a CSV of images and findings ("Edema|Effusion").

    Raises UserError naming the file, and the row where one is at fault.
    """
    csv = Csv.read(path)
    names, findings = image_column(csv), csv.column(*_LABELS)
    refuse_duplicates(csv, names.map(tidy))
    bits = [
        _bits(text, vocabulary, f"{path}, row {row_number(index)} (image {name!r})")
        for index, name, text in zip(names.index, names, findings, strict=True)
    ]
    return pd.Series(bits, names, dtype=int)


def _bits(text: str, vocabulary: Findings, where: str) -> int:
    names = [composed(name.strip()) for name in text.split(JOIN) if name.strip()]
    try:
        return vocabulary.encode(NO_FINDING if is_no_finding(name) else name for name in names)
    except UserError as error:
        raise UserError(error.what, where=where, hint=error.hint) from None


def labelled(path: Path, vocabulary: Findings, image_ids: pd.Series) -> pd.Series:
    """The labels of `read_adjudicated` for those of the images that have any, by image id.

    Images are named by their ids, or as the table that the Dataset was made of names them. Raises UserError, besides,
    where two rows name one image, or none names any.
    """
    labels, ids = read_adjudicated(path, vocabulary), image_ids.tolist()
    places = pd.Series(look_up_ids(labels.index.tolist(), ids), labels.index)
    known = places[places >= 0]
    if known.empty:
        raise UserError(
            f"none of its {len(labels)} images is a test image, such as {image_ids.iloc[0]!r}; the first is "
            f"{labels.index[0]!r}",
            where=str(path),
            hint="write image ids as the Dataset does, and label images that are tested on",
        )
    if known.duplicated().any():
        one, other = known.index[known == known[known.duplicated()].iloc[0]][:2]
        what = f"{one!r} and {other!r} are one image, {ids[known[one]]!r}"
        raise UserError(what, where=str(path), hint="keep the row whose labels hold")
    return pd.Series(labels[known.index].to_numpy(), [ids[place] for place in known], dtype=int)


def unknown_ids(path: Path, vocabulary: Findings, image_ids: pd.Series) -> list[str]:
    """A line for people where some rows name no image of a whole Dataset."""
    names = read_adjudicated(path, vocabulary).index.tolist()
    places = look_up_ids(names, image_ids.tolist())
    unmatched = [name for name, place in zip(names, places, strict=True) if place < 0]
    named = ", ".join(map(repr, unmatched[:5])) + (" ..." if len(unmatched) > 5 else "")
    return [f"{path}: {len(unmatched)} rows name no image of the Dataset: {named}"] if unmatched else []
