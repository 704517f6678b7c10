"""The layout in which NIH publishes ChestX-ray14: numbered folders of PNG files, Data_Entry_2017, boxes, two lists."""

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.data.nih_files import BBOX_HEADER, BBOX_LIST, DATA_ENTRY_HEADER, box_name, labels_field
from cxr_core.export.layout import FILES_A_FOLDER

_NAME = re.compile(r"\d{8}_\d{3}")
_FRAME = 1024
"""Pixels of the frame in which BBox_List_2017.csv gives boxes."""


class NihLayout:
    """Images that are not named as NIH's are numbered anew; image_ids.csv then tells which is which.

    A synthetic image is the one image of a patient of its own, whose age and sex nobody knows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.names = nih_names(dataset.rows)

    def path(self, number: int, row: Any) -> str:
        return f"images_{number // FILES_A_FOLDER + 1:03d}/images/{self.names[number]}.png"

    def content(self, row: Any) -> bytes:
        return self.dataset.png(row)

    def finish(self, folder: Path) -> None:
        rows = self.dataset.rows.assign(name=[f"{name}.png" for name in self.names])
        self._data_entry(rows).to_csv(folder / "Data_Entry_2017.csv", index=False)
        self._boxes(folder / BBOX_LIST, rows)
        is_test = rows["split"] == "test"
        for name, chosen in (("train_val", ~is_test), ("test", is_test)):
            (folder / f"{name}_list.txt").write_text("\n".join(rows.loc[chosen, "name"]))
        told = rows[["name", "image_id", "prompt", "seed", "generation"]].rename(columns={"name": "Image Index"})
        told.astype({"seed": "Int64"}).to_csv(folder / "image_ids.csv", index=False)

    def _data_entry(self, rows: pd.DataFrame) -> pd.DataFrame:
        ages = [f"{age:.0f}" if age == age else "" for age in rows["age"]]
        labels = [labels_field(self.dataset.findings.decode(bits)) for bits in rows["labels"]]
        visits, patients = [int(name[9:]) for name in self.names], [int(name[:8]) for name in self.names]
        sizes = rows["width"], rows["height"]
        columns = (rows["name"], labels, visits, patients, ages, rows["sex"], rows["view"], *sizes, "", "")
        return pd.DataFrame(dict(zip(DATA_ENTRY_HEADER.split(","), columns, strict=True)))

    def _boxes(self, path: Path, rows: pd.DataFrame) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(BBOX_HEADER.split(","))
            for name, boxes, width in zip(rows["name"], rows["boxes"], rows["width"], strict=True):
                for box in boxes:
                    frame = [box[key] * _FRAME / width for key in "xywh"]
                    writer.writerow([name, box_name(box["finding"]), *frame, "", "", ""])


def nih_names(rows: pd.DataFrame) -> list[str]:
    """`00000012_003`, patient and visit, of each image: its own id where all are such, else numbers."""
    if rows["image_id"].str.fullmatch(_NAME).all():
        return list(rows["image_id"])
    patient = rows["patient_id"].where(rows["patient_id"] != "", rows["image_id"])
    number, visit = patient.factorize()[0] + 1, patient.groupby(patient).cumcount()
    return [f"{n:08d}_{v:03d}" for n, v in zip(number, visit, strict=True)]
