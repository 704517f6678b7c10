"""Labels that people gave to test images, read from a CSV: what text-mined labels are checked against."""

from pathlib import Path

import pandas as pd

from cxr_core.data.csvfile import Csv, row_number
from cxr_core.data.findings import JOIN, Findings
from cxr_core.data.table import refuse_duplicates
from cxr_core.errors import UserError


def read_adjudicated(path: Path, vocabulary: Findings) -> pd.Series:
    """Labels (bits of `vocabulary`) by image id, of a CSV with the columns image_id and findings ("Edema|Effusion").

    Raises UserError naming the file, and the row where one is at fault.
    """
    csv = Csv.read(path)
    ids, findings = csv.column("image_id"), csv.column("findings")
    refuse_duplicates(csv, ids)
    bits = [
        _bits(text, vocabulary, f"{path}, row {row_number(index)} (image {image_id!r})")
        for index, image_id, text in zip(ids.index, ids, findings, strict=True)
    ]
    return pd.Series(bits, ids, dtype=int)


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
            f"none of its {len(labels)} images is a test image, such as {image_ids.iloc[0]!r}; the first is "
            f"{labels.index[0]!r}",
            where=str(path),
            mend="write image ids as the Dataset does, and label images that are tested on",
        )
    return known
