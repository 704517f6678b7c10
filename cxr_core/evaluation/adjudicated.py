"""Labels that people gave to test images, read from a CSV: what text-mined labels are checked against."""

from pathlib import Path

import pandas as pd

from cxr_core.data.findings import JOIN, Findings
from cxr_core.errors import UserError

_COLUMNS = ["image_id", "findings"]


def read_adjudicated(path: Path, vocabulary: Findings) -> pd.Series:
    """Labels (bits of `vocabulary`) by image id, of a CSV with the columns image_id and findings ("Edema|Effusion").

    Raises UserError naming the file, and the row where one is at fault.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"not a readable table ({error})", where=str(path), mend="give a CSV file") from error
    if lacking := [name for name in _COLUMNS if name not in table]:
        mend = f"it needs the columns {' and '.join(_COLUMNS)}"
        raise UserError(f"no column {', '.join(lacking)}", where=str(path), mend=mend)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise UserError(f"image {twice.iloc[0]!r} has two rows", where=str(path), mend="keep one row an image")
    bits = [
        _bits(text, vocabulary, f"{path}:{line} (image {image_id!r})")
        for line, (image_id, text) in enumerate(zip(table["image_id"], table["findings"], strict=True), 2)
    ]
    return pd.Series(bits, table["image_id"], dtype=int)


def _bits(text: str, vocabulary: Findings, where: str) -> int:
    try:
        return vocabulary.encode(filter(None, map(str.strip, text.split(JOIN))))
    except UserError as error:
        raise UserError(error.what, where=where, mend=error.mend) from None


def labelled(path: Path, vocabulary: Findings, image_ids: pd.Series) -> pd.Series:
    """The labels of `read_adjudicated` for those of the images that have any.

    Raises UserError, besides, where it names none of them.
    """
    labels = read_adjudicated(path, vocabulary)
    known = labels[labels.index.isin(image_ids)]
    if known.empty:
        raise UserError(
            f"none of its {len(labels)} images is a test image",
            where=str(path),
            mend=f"write image ids as the Dataset does, e.g. {image_ids.iloc[0]!r}",
        )
    return known
