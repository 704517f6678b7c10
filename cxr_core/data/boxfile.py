"""Files of bounding boxes, told apart by what they hold: NIH's list, RSNA's, ChestX-Det's, and plain ones.

NIH: BBox_List_2017.csv (Wang et al., CVPR 2017). RSNA Pneumonia Detection Challenge (Shih et al., Radiology AI 2019):
patientId, x, y, width, height, Target; one row for each box, or one without numbers. ChestX-Det (Lian et al. 2021,
arXiv 2104.10326): a JSON list of objects with file_name, syms and boxes, each box two corners.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_core.data.csvfile import Csv
from cxr_core.data.findings import Findings
from cxr_core.data.nih_files import NIH_ALIASES
from cxr_core.data.problems import decide_all, problem_frame
from cxr_core.data.settings import BoxFile, Policies
from cxr_core.data.table import SourceTable, parse_boxes, parse_images
from cxr_core.data.textfile import read_text
from cxr_core.errors import UserError

COLUMNS = ["image_id", "finding", *"xywh"]

_FORMS: tuple[tuple[tuple[str, ...], ...], ...] = (
    # NIH's header `Bbox [x,y,w,h],,,` has commas inside its brackets.
    (("Image Index",), ("Finding Label",), ("Bbox [x", "x"), ("y",), ("w",), ("h]", "h")),
    (("patientId",), ("class",), ("x",), ("y",), ("width",), ("height",)),
    (("image",), ("finding",), ("x",), ("y",), ("w", "width"), ("h", "height")),
)
"""Columns of image, finding, x, y, width, height; a form is known by its first one."""


def read_boxes(file: BoxFile, findings: Findings) -> pd.DataFrame:
    """image_id (the image as the file names it, see `references.tidy`), finding, x, y, w, h of each box of `findings`.

    Raises UserError for a file of no known form, for what is no box, and for a finding that is neither one of
    `findings` nor in `names` of the settings.
    """
    is_json = file.path.name.lower().endswith((".json", ".json.gz"))
    csv = boxes_of_json(file.path) if is_json else Csv.read(file.path)
    image, finding, *numbers = _form(csv)
    cells = [csv.column(*names) for names in numbers]
    given = (pd.concat(cells, axis=1) != "").any(axis=1)
    told = pd.Series(file.finding, csv.cells.index) if file.finding else csv.column(*finding)
    names = _aliases(image, findings) | file.names
    renamed = told.map(lambda name: names.get(name, name))
    kept = given & renamed.notna()
    part = Csv(csv.path, csv.cells[kept])
    ids = parse_images(part, csv.column(*image)[kept])
    return parse_boxes(part, ids, renamed[kept], *(cell[kept] for cell in cells), findings=findings)


def _aliases(image: tuple[str, ...], findings: Findings) -> dict[str, str]:
    """What a file of NIH's form calls a finding, where the vocabulary has no finding of that name."""
    is_nih = image == _FORMS[0][0]
    return {alias: name for alias, name in NIH_ALIASES.items() if is_nih and alias not in findings.names}


def boxes_without_label(table: SourceTable, policies: Policies) -> tuple[SourceTable, pd.DataFrame]:
    """The table without what the policy leaves out, and a problem for each box of a finding that its image's labels do
    not have. Raises UserError for the first where the policy is fail."""
    labels = table.boxes["image_id"].map(table.rows.set_index("image_id")["labels"])
    bits = table.boxes["finding"].map({name: table.findings.bit(name) for name in table.findings.names})
    differ = labels.notna() & ((labels.fillna(0).astype("int64") & bits.astype("int64")) == 0)
    bad = table.boxes[differ]
    said = labels[differ].astype("int64").map(table.findings.text)
    details = [f"a box of {name}; the labels are {text}" for name, text in zip(bad["finding"], said, strict=True)]
    found = decide_all(policies, problem_frame("box_without_label", bad["image_id"], str(table.path), details, ""))
    if policies.box_without_label == "convert":
        return replace(table, boxes=table.boxes[~differ]), found.assign(action="box left out")
    if policies.box_without_label == "exclude":
        return replace(table, rows=table.rows[~table.rows["image_id"].isin(bad["image_id"])]), found
    return table, found


def _form(csv: Csv) -> tuple[tuple[str, ...], ...]:
    for form in _FORMS:
        if any(name in csv.cells.columns for name in form[0]):
            return form
    known = "; ".join(", ".join(names[-1] for names in form) for form in _FORMS)
    raise UserError(
        f"no list of boxes of a form that we know; it has the columns {', '.join(map(str, csv.cells.columns))}",
        where=str(csv.path),
        hint=f"give it the columns of one of: {known}",
    )


def boxes_of_json(path: Path) -> Csv:
    """A JSON list of images with their boxes by two corners, as text cells of the plain form."""
    text = read_text(path)
    try:
        rows = [row for entry in json.loads(text) for row in _boxes_of(entry)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not a list of images with file_name, syms and boxes ({error!r})",
            where=str(path),
            hint="take the file as it was published, or write a CSV with image, finding, x, y, w, h",
        ) from error
    return Csv(path, pd.DataFrame(rows, columns=["image", "finding", *"xywh"], dtype=object))


def _boxes_of(entry: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (str(entry["file_name"]), str(name), *(f"{value:.15g}" for value in (x0, y0, x1 - x0, y1 - y0)))
        for name, (x0, y0, x1, y1) in zip(entry["syms"], entry["boxes"], strict=True)
    ]
