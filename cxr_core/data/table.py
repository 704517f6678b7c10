"""Tables of radiographs, a row an image: the cells of any table put into one form, and tables of one's own."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr_core.data.csvfile import Csv, row_number
from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.data.settings import Columns, TableData
from cxr_core.data.splits import hashed_split
from cxr_core.errors import UserError

SPLITS = ("train", "val", "test")

_AGE = re.compile(r"(\d+(?:\.\d+)?)([YMD]?)")
_UNITS = {"": 1.0, "Y": 1.0, "M": 12.0, "D": 365.25}
_IMAGE_ID = re.compile(r"[^/\\\x00-\x1f]{1,251}")
"""A file name holds 255 bytes, with its ending."""


@dataclass(frozen=True)
class SourceTable:
    """A table of radiographs as given, before any image is looked for.

    `rows`: image_id (file name without ending), patient_id, view, age (years or NaN), sex, follow_up, labels (bits of
    `findings`), split (train, val, test), row (of the CSV, the header is row 1). `boxes`: image_id, finding and
    x, y, w, h.
    """

    path: Path
    findings: Findings
    rows: pd.DataFrame
    boxes: pd.DataFrame


def parse_images(csv: Csv, values: pd.Series) -> pd.Series:
    """File names to image ids: without folders and without .png; each once."""
    ids = values.str.replace(r"^.*[/\\]", "", regex=True).str.replace(r"\.png$", "", regex=True, case=False)
    csv.refuse(~ids.str.fullmatch(_IMAGE_ID), values, "not a file name", "give the name of a PNG file, e.g. a.png")
    return ids


def refuse_duplicates(csv: Csv, ids: pd.Series) -> None:
    """Raise UserError for an image that has two rows, naming both."""
    again = ids.duplicated()
    if again.any():
        name = ids[again].iloc[0]
        first, second = ids.index[ids == name].to_list()[:2]
        raise UserError(
            f"image {name!r} has two rows: {row_number(first)} and {row_number(second)}",
            where=str(csv.path),
            mend="remove one of them",
        )


def parse_labels(csv: Csv, values: pd.Series, findings: Findings, separator: str = "|") -> pd.Series:
    """Findings joined by `separator` to bits. Raises UserError for an unknown one, an empty cell, a contradiction."""
    csv.refuse(values == "", values, "no label", f"write {NO_FINDING!r} where nothing was found")
    bits: dict[str, int] = {}
    for value in values.unique():
        names = [name.strip() for name in value.split(separator)]
        try:
            bits[value] = findings.encode(names)
        except UserError as error:
            csv.refuse(values == value, values, error.what, error.mend)
        if NO_FINDING in names and len(names) > 1:
            csv.refuse(values == value, values, f"{NO_FINDING} beside findings", "remove one of the two")
    return values.map(bits).astype("int64")


def parse_ages(csv: Csv, values: pd.Series) -> pd.Series:
    """Ages of both editions of ChestX-ray14 ("57", "057Y", "011M", "004D") in years; empty: NaN."""
    return csv.parse(values, _age, "not an age", 'write years ("57", "057Y"), months ("011M") or days ("004D")')


def _age(text: str) -> float | None:
    match = _AGE.fullmatch(text.upper())
    if match is None:
        return None if text else float("nan")
    return float(match[1]) / _UNITS[match[2]]


def parse_sex(csv: Csv, values: pd.Series) -> pd.Series:
    csv.refuse(~values.isin(["M", "F", ""]), values, "not a sex", "write M, F or nothing")
    return values


def parse_visits(csv: Csv, values: pd.Series) -> pd.Series:
    """Numbers of visits."""
    csv.refuse(~values.str.fullmatch(r"\d{1,9}"), values, "not the number of a visit", "write 0, 1, 2 ...")
    return values.astype("int64")


def read_table(data: TableData) -> SourceTable:
    """A table of one's own. Raises UserError for the first mistake in it."""
    csv, columns, findings = Csv.read(data.csv), data.columns, Findings(data.findings)
    csv.refuse_empty()
    ids = parse_images(csv, csv.column(columns.image))
    boxes = _boxes(csv, ids, columns, findings)
    csv, ids = _one_row_an_image(csv, ids, columns)
    patients = csv.column(columns.patient)
    csv.refuse(patients == "", patients, "no patient", "splits are by patient: every row needs one")
    rows = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": patients,
            "view": _optional(csv, columns.view),
            "age": parse_ages(csv, _optional(csv, columns.age)),
            "sex": parse_sex(csv, _optional(csv, columns.sex)),
            "follow_up": parse_visits(csv, csv.column(columns.follow_up)) if columns.follow_up else 0,
            "labels": parse_labels(csv, csv.column(columns.labels), findings, data.label_separator),
            "split": _split(csv, columns.split) if columns.split else hashed_split(patients, test=data.test),
            "row": csv.cells.index + 2,
        }
    )
    return SourceTable(csv.path, findings, rows.reset_index(drop=True), boxes)


def _optional(csv: Csv, name: str | None) -> pd.Series:
    return csv.column(name) if name else pd.Series("", index=csv.cells.index, dtype=str)


def _split(csv: Csv, name: str) -> pd.Series:
    values = csv.column(name)
    csv.refuse(values == "", values, "a row without a split", "write train, val or test")
    csv.refuse(~values.isin(SPLITS), values, "not a split", "write train, val or test")
    return values


def _boxes(csv: Csv, ids: pd.Series, columns: Columns, findings: Findings) -> pd.DataFrame:
    if columns.box is None:
        return parse_boxes(csv, ids.iloc[:0], *(ids.iloc[:0],) * 5, findings=findings)
    cells = [csv.column(name) for name in columns.box]
    given = (pd.concat(cells, axis=1) != "").any(axis=1)
    return parse_boxes(Csv(csv.path, csv.cells[given]), ids[given], *(cell[given] for cell in cells), findings=findings)


def parse_boxes(csv: Csv, ids: pd.Series, *cells: pd.Series, findings: Findings) -> pd.DataFrame:
    """Boxes from their columns finding, x, y, w, h. Raises UserError for what is no number or has no area."""
    names, *numbers = cells
    known = csv.parse(names, lambda name: _finding(name, findings), "a box of an unknown finding", "see the findings")
    values = {}
    for name, cell in zip("xywh", numbers, strict=True):
        values[name] = pd.to_numeric(cell, errors="coerce").astype("float64")
        least = 0.0 if name in "wh" else -float("inf")
        csv.refuse(~(values[name] > least), cell, f"not a box's {name}", "give pixels; width and height over 0")
    return pd.DataFrame({"image_id": ids, "finding": known.astype(object), **values}).reset_index(drop=True)


def _finding(name: str, findings: Findings) -> str | None:
    try:
        return findings.decode(findings.bit(name))[0] if findings.bit(name) else None
    except UserError:
        return None


def _one_row_an_image(csv: Csv, ids: pd.Series, columns: Columns) -> tuple[Csv, pd.Series]:
    """Rows that differ only in their box are one image."""
    if columns.box is None:
        refuse_duplicates(csv, ids)
        return csv, ids
    cells = csv.cells.drop(columns=list(columns.box)).drop_duplicates()
    csv = Csv(csv.path, cells)
    again = ids[cells.index].duplicated()
    csv.refuse(again, ids[cells.index], "an image whose rows differ in more than the box", "make them agree")
    return csv, ids[cells.index]
