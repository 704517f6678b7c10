"""Tables of radiographs, a row an image: the cells of any table put into one form, and tables of one's own."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr_core.data.cells import parse_ages, parse_sex, parse_views, parse_visits
from cxr_core.data.csvfile import Csv, row_number
from cxr_core.data.findings import NO_FINDING, Findings, is_no_finding
from cxr_core.data.identity import composed, is_nothing, one_spelling
from cxr_core.data.references import image_ids, tidy, without_ending
from cxr_core.data.settings import Columns, TableData
from cxr_core.errors import UserError

SPLITS = ("train", "val", "test")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MOST_BYTES = 251
"""Of an image id: a file name holds 255 bytes, with its ending."""


@dataclass(frozen=True)
class SourceTable:
    """A table of radiographs as given, before any image is looked for.

    `rows`: image_id, reference (the image's path as the table has it, see `references.tidy`), patient_id, view, age
    (years or NaN), sex, follow_up, labels (bits of `findings`), split (train, val, test; "" where the table does
    not say it), row (of the CSV, the header is row 1). `boxes`: image_id, finding and x, y, w, h.
    `notes`: lines for people.
    """

    path: Path
    findings: Findings
    rows: pd.DataFrame
    boxes: pd.DataFrame
    notes: tuple[str, ...] = ()


def parse_images(csv: Csv, values: pd.Series) -> pd.Series:
    """Paths of images as they are compared: see `references.tidy`."""
    paths = pd.Series([tidy(value) for value in values], values.index, dtype=object)
    good = [_names_image(value, path) for value, path in zip(values, paths, strict=True)]
    csv.refuse(~pd.Series(good, values.index, dtype=bool), values, "not a file name", "give an image's, e.g. a.png")
    return paths


def _names_image(value: str, path: str) -> bool:
    if is_nothing(value) or value.endswith(("/", "\\")):
        return False
    name = path.rpartition("/")[2]
    return name[:1] not in ("", ".") and not _CONTROL.search(name) and len(os.fsencode(name)) <= _MOST_BYTES


def refuse_duplicates(csv: Csv, ids: pd.Series) -> None:
    """Raise UserError for an image that has two rows, naming both."""
    again = ids.duplicated()
    if again.any():
        name = ids[again].iloc[0]
        first, second = ids.index[ids == name].to_list()[:2]
        more = f" ({int(again.sum()) - 1} more such rows)" if again.sum() > 1 else ""
        raise UserError(
            f"image {name!r} has two rows: {row_number(first)} and {row_number(second)}{more}",
            where=str(csv.path),
            hint="keep one row an image; where two images have one file name, write their folders too",
        )


def parse_labels(
    csv: Csv, values: pd.Series, findings: Findings, separator: str = "|", aliases: Mapping[str, str] | None = None
) -> pd.Series:
    """Findings joined by `separator` to bits. Raises UserError for an unknown one, an empty cell, a contradiction.

    `aliases`: what a source calls a finding of the vocabulary.
    """
    nothing = values.map(lambda value: is_nothing(value) and value not in findings.names)
    csv.refuse(nothing.astype(bool), values, "no label", f"write {NO_FINDING!r} where nothing was found")
    bits: dict[str, int] = {}
    for value in values.unique():
        names = [_label(name, aliases or {}) for name in value.split(separator)]
        try:
            bits[value] = findings.encode(names)
        except UserError as error:
            csv.refuse(values == value, values, error.what, error.hint)
        if NO_FINDING in names and len(names) > 1:
            csv.refuse(values == value, values, f"{NO_FINDING} beside findings", "remove one of the two")
    return values.map(bits).astype("int64")


def _label(text: str, aliases: Mapping[str, str]) -> str:
    name = composed(text.strip())
    return NO_FINDING if is_no_finding(name) else aliases.get(name, name)


def parse_patients(csv: Csv, values: pd.Series) -> pd.Series:
    """Names of patients. Raises UserError for a row without one."""
    hint = "splits are by patient: every row needs one"
    csv.refuse(values.map(is_nothing), values, "no patient", hint)
    return one_spelling(values)


def read_table(data: TableData) -> SourceTable:
    """A table of one's own. Raises UserError for the first mistake in it."""
    csv, columns, findings = Csv.read(data.csv), data.columns, Findings(data.findings)
    csv.refuse_empty()
    paths = parse_images(csv, csv.column(columns.image))
    full, paths_of_all = csv, paths
    csv, paths = _one_row_an_image(csv, paths, columns)
    ids = _ids(csv.column(columns.image), paths)
    boxes = _boxes(full, paths_of_all.map(dict(zip(paths, ids, strict=True))), columns, findings)
    patients = parse_patients(csv, csv.column(columns.patient))
    rows = pd.DataFrame(
        {
            "image_id": ids,
            "reference": paths,
            "patient_id": patients,
            "view": parse_views(_optional(csv, columns.view), data.views),
            "age": parse_ages(csv, _optional(csv, columns.age)),
            "sex": parse_sex(csv, _optional(csv, columns.sex)),
            "follow_up": parse_visits(csv, csv.column(columns.follow_up)) if columns.follow_up else 0,
            "labels": parse_labels(csv, csv.column(columns.labels), findings, data.label_separator),
            "split": _split(csv, columns.split) if columns.split else "",
            "row": csv.cells.index + 2,
        }
    )
    return SourceTable(csv.path, findings, rows.reset_index(drop=True), boxes)


def _ids(values: pd.Series, paths: pd.Series) -> pd.Series:
    """Image ids: of `a.dcm.png` it is `a.dcm`, of `a.dcm` (whatever ending its file has) `a`."""
    plain = [
        path if value.lower().endswith(".png") else without_ending(path)
        for value, path in zip(values, paths, strict=True)
    ]
    return pd.Series(image_ids(plain), paths.index, dtype=object)


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
    given = ~pd.concat([cell.map(_says_no_box) for cell in cells], axis=1).all(axis=1)
    return parse_boxes(Csv(csv.path, csv.cells[given]), ids[given], *(cell[given] for cell in cells), findings=findings)


def _says_no_box(cell: str) -> bool:
    return is_nothing(cell) or is_no_finding(cell)


def parse_boxes(csv: Csv, ids: pd.Series, *cells: pd.Series, findings: Findings) -> pd.DataFrame:
    """Boxes from their columns finding, x, y, w, h. Raises UserError for what is no number or has no area."""
    names, *numbers = cells
    hint = f"known are: {', '.join(findings.names)}"
    known = csv.parse(names, lambda name: _finding(name, findings), "a box of an unknown finding", hint)
    values = {}
    for name, cell in zip("xywh", numbers, strict=True):
        values[name] = pd.to_numeric(cell, errors="coerce").astype("float64")
        good = (values[name].abs() < float("inf")) & ((values[name] > 0) | (name in "xy"))
        csv.refuse(~good, cell, f"not a box's {name}", "give pixels, such as 10.5; width and height over 0")
    return pd.DataFrame({"image_id": ids, "finding": known.astype(object), **values}).reset_index(drop=True)


def _finding(name: str, findings: Findings) -> str | None:
    name = composed(name)
    return name if name in findings.names else None


def _one_row_an_image(csv: Csv, paths: pd.Series, columns: Columns) -> tuple[Csv, pd.Series]:
    """Rows that differ only in their box, or in what is not read (its reader), are one image."""
    if columns.box is None:
        refuse_duplicates(csv, paths.map(without_ending))
        return csv, paths
    read = {name: csv.column(name) for name in columns.model_dump(exclude={"image", "box"}).values() if name}
    kept = ~pd.DataFrame({"": paths, **read}).duplicated()
    csv, paths = Csv(csv.path, csv.cells[kept]), paths[kept]
    again = paths.map(without_ending).duplicated()
    csv.refuse(again, paths, "an image whose rows differ in more than the box", "make them agree")
    return csv, paths
