"""The layout in which NIH publishes ChestX-ray14: numbered folders of PNG files, Data_Entry_2017, boxes, two lists."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH_FINDINGS
from cxr_core.data.nih_files import BBOX_HEADER, BBOX_LIST, DATA_ENTRY_HEADER, box_name, labels_field
from cxr_core.errors import UserError
from cxr_core.export.layout import FILES_A_FOLDER, marked
from cxr_core.shown import csv_cell

_NAME = re.compile(r"\d{8}_\d{3}")
_VISITS = 1000
"""Images of one patient that names of NIH's can tell apart."""
_FRAME = 1024
"""Pixels of the frame in which BBox_List_2017.csv gives boxes."""

_IDS = pa.schema(
    [(name, pa.string()) for name in ("Image Index", "image_id", "patient_id", "split", "prompt")]
    + [("seed", pa.int64()), ("generation", pa.string())]
)


class NihLayout:
    """Images that are not named as NIH's are numbered anew; image_ids.parquet and .csv tell which is which.

    A synthetic image is the one image of a patient of its own, whose age and sex nobody knows. Raises UserError for a
    Dataset with something that this layout cannot say.
    """

    def __init__(self, dataset: Dataset) -> None:
        _refuse_unsayable(dataset)
        self.dataset = dataset
        self.names = nih_names(dataset.rows)
        self._mark = "" if dataset.info.synthetic else INTERNAL

    def path(self, number: int, row: Any) -> str:
        return f"images_{number // FILES_A_FOLDER + 1:03d}/images/{self.names[number]}.png"

    def content(self, row: Any) -> bytes:
        return self.dataset.png(row)

    def finish(self, folder: Path) -> None:
        rows = self.dataset.rows.assign(**{"Image Index": [f"{name}.png" for name in self.names]})
        self._data_entry(rows).to_csv(folder / "Data_Entry_2017.csv", index=False)
        self._boxes(folder / BBOX_LIST, rows)
        is_test = rows["split"] == "test"
        for name, chosen in (("train_val", ~is_test), ("test", is_test)):
            (folder / f"{name}_list.txt").write_text("\n".join(rows.loc[chosen, "Image Index"]))
        told = rows[_IDS.names].astype({"seed": "Int64"})
        # NIH's tables end in a column without a name, which says that they are internal; this one in one of ours.
        texts = told.select_dtypes(include="object").map(_cell)  # the Parquet has them as they are
        access = {"access": self._mark} if self._mark else {}
        told.assign(**texts, **access).to_csv(folder / "image_ids.csv", index=False)
        ids = pa.Table.from_pandas(told, _IDS, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(marked(ids, self.dataset), folder / "image_ids.parquet")

    def _data_entry(self, rows: pd.DataFrame) -> pd.DataFrame:
        labels = [labels_field(self.dataset.findings.decode(bits)) for bits in rows["labels"]]
        patients, ages = [int(name[:8]) for name in self.names], list(map(_age, rows["age"]))
        sizes = rows["width"], rows["height"]
        columns = (
            *(rows["Image Index"], labels, rows["follow_up"], patients),
            *(ages, rows["sex"].map(_cell), rows["view"].map(_cell), *sizes, "", self._mark),
        )
        return pd.DataFrame(dict(zip(DATA_ENTRY_HEADER.split(","), columns, strict=True)))

    def _boxes(self, path: Path, rows: pd.DataFrame) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(BBOX_HEADER.split(","))
            for name, boxes, width in zip(rows["Image Index"], rows["boxes"], rows["width"], strict=True):
                for box in boxes:
                    frame = [box[key] * _FRAME / width for key in "xywh"]
                    writer.writerow([name, box_name(box["finding"]), *frame, "", "", self._mark])


def _cell(value: Any) -> Any:
    return csv_cell(value) if isinstance(value, str) else value


def nih_names(rows: pd.DataFrame) -> list[str]:
    """`00000012_003`, patient and visit, of each image.

    Its own id, where all are such and name the patient that the row does; else a number anew for each image, beginning
    with the patient's own number, where all patients have one.
    """
    patients = _patients(rows)
    if rows["image_id"].str.fullmatch(_NAME).all() and (rows["image_id"].str[:8].astype(int) == patients).all():
        return list(rows["image_id"])
    visits = patients.groupby(patients).cumcount()
    return [f"{number:08d}_{visit:03d}" for number, visit in zip(patients, visits, strict=True)]


def _patients(rows: pd.DataFrame) -> pd.Series:
    """A number from 0 to 99,999,999 for each row, the same for the same patient alone: his own, or counted from 1."""
    names = rows["patient_id"]
    if names.str.fullmatch(r"\d{1,8}", flags=re.ASCII).all():
        numbers = names.astype("int64")
        if numbers.nunique() == names.nunique():
            return numbers
    # An image without a patient is of nobody else, not even of a patient who is called like it.
    keys = list(zip(names == "", names.where(names != "", rows["image_id"]), strict=True))
    codes, _ = pd.factorize(pd.Series(keys, index=rows.index, dtype=object))
    return pd.Series(codes + 1, index=rows.index)


def _age(years: float) -> str:
    """Years with all their digits and without an exponent: an age of 7 months is no 1 year."""
    return "" if np.isnan(years) else np.format_float_positional(years, trim="-")


def _refuse_unsayable(dataset: Dataset) -> None:
    rows, where = dataset.rows, str(dataset.folder)
    for name in sorted(set(dataset.findings.names) - set(NIH_FINDINGS)):
        boxed = rows["boxes"].map(lambda boxes, name=name: any(box["finding"] == name for box in boxes))
        num = int((boxed | (rows["labels"] & dataset.findings.bit(name) != 0)).sum())
        if num:
            raise UserError(
                f"{num:,} images have {name!r}, which is none of the 14 findings of ChestX-ray14",
                where=where,
                hint="export with --as imagefolder, which has a column for every finding",
            )
    num_images = rows.loc[rows["patient_id"] != "", "patient_id"].value_counts()
    if len(num_images) and num_images.iloc[0] > _VISITS:
        raise UserError(
            f"patient {num_images.index[0]!r} has {num_images.iloc[0]:,} images, but NIH's names count to {_VISITS:,}",
            where=where,
            hint="export with --as imagefolder, where images keep their names",
        )
