"""ChestX-ray14 as NIH publishes it: Data_Entry in both editions, the two official lists, BBox_List.

Wang et al., CVPR 2017; files and README at https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from pathlib import Path

import pandas as pd

from cxr_core.data.boxfile import read_boxes
from cxr_core.data.cells import parse_ages, parse_sex, parse_views, parse_visits
from cxr_core.data.csvfile import Csv
from cxr_core.data.findings import NIH
from cxr_core.data.identity import patient_key
from cxr_core.data.nih_files import BBOX_LIST, NIH_ALIASES
from cxr_core.data.settings import BoxFile, ChestXray14Data
from cxr_core.data.splits import official_split
from cxr_core.data.table import SourceTable, parse_images, parse_labels, refuse_duplicates
from cxr_core.errors import UserError


def read_chestxray14(data: ChestXray14Data) -> SourceTable:
    """Data_Entry joined with the official split and the boxes. Raises UserError for anything that does not fit."""
    folder = data.metadata
    csv = Csv.read(_data_entry(data, folder))
    csv.refuse_empty()
    names = csv.column("Image Index")
    csv.refuse(~names.str.fullmatch(r"\d{8}_\d{3}\.png"), names, "not an image name of NIH's", "e.g. 00000001_000.png")
    ids = parse_images(csv, names)
    refuse_duplicates(csv, ids)
    patients = ids.str[:8]
    rows = pd.DataFrame(
        {
            "image_id": ids,
            "reference": ids,
            "patient_id": patients,
            "view": parse_views(csv.column("View Position")),
            "age": parse_ages(csv, csv.column("Patient Age")),
            "sex": parse_sex(csv, csv.column("Patient Gender", "Patient Sex")),
            "follow_up": parse_visits(csv, csv.column("Follow-up #")),
            "labels": parse_labels(csv, csv.column("Finding Labels"), NIH, aliases=NIH_ALIASES),
            "row": csv.cells.index + 2,
        }
    )
    _check_patients(csv, patients)
    rows["split"], notes = official_split(
        csv,
        rows,
        train_val=data.train_val_list or folder / "train_val_list.txt",
        test=data.test_list or folder / "test_list.txt",
    )
    return SourceTable(csv.path, NIH, rows, _boxes(data, folder), tuple(notes))


def _data_entry(data: ChestXray14Data, folder: Path) -> Path:
    if data.data_entry is not None:
        return data.data_entry
    found = sorted(path for ending in (".csv", ".csv.gz") for path in folder.glob(f"Data_Entry_2017*{ending}"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} tables: {', '.join(path.name for path in found)}" if found else "no Data_Entry_2017*.csv"
    raise UserError(what, where=str(folder), hint="name the table with `data_entry`")


def _check_patients(csv: Csv, patients: pd.Series) -> None:
    stated = csv.column("Patient ID")
    keys = {name: patient_key(name) for name in {*stated, *patients}}
    differ = stated.map(keys) != patients.map(keys)
    csv.refuse(differ, stated, "another patient than the file name says", "correct the row")


def _boxes(data: ChestXray14Data, folder: Path) -> pd.DataFrame:
    path = data.boxes or folder / BBOX_LIST
    if not data.use_boxes:
        return pd.DataFrame({"image_id": [], "finding": [], "x": [], "y": [], "w": [], "h": []})
    if not path.is_file():
        raise UserError(
            "there is no list of boxes", where=str(path), hint="name it with `boxes`, or say `use_boxes: false`"
        )
    return read_boxes(BoxFile(path=path), NIH)
