"""A phantom dataset on disk, in the very layout in which NIH publishes ChestX-ray14."""

import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import pandas as pd

from cxr_core.data.findings import NIH
from cxr_core.data.nih_files import BBOX_HEADER, BBOX_LIST, DATA_ENTRY_HEADER, box_name, labels_field
from cxr_core.data.phantom.case import Case, stream
from cxr_core.data.phantom.population import cases, population
from cxr_core.data.phantom.render import read_bytes
from cxr_core.errors import UserError
from cxr_core.runs.files import atomic_path

DATA_ENTRY, TRUTH = "Data_Entry_2017_v2020.csv", "phantom_truth.csv"
BOXED_FINDINGS = (
    "Atelectasis",
    "Effusion",
    "Cardiomegaly",
    "Infiltration",
    "Pneumonia",
    "Pneumothorax",
    "Mass",
    "Nodule",
)
"""The findings of BBox_List_2017.csv in its order of rows."""
NUM_FOLDERS = 12
"""images_001/images to images_012/images."""
_DETECTORS = (
    (2500, 2048, "0.168"),
    (2992, 2991, "0.14300000000000002"),
    (3056, 2544, "0.139"),
    (2048, 2500, "0.171"),
    (2021, 2021, "0.19431099999999998"),
)
"""Commonest widths, heights and pixel spacings (mm) of NIH's originals."""


def write_layout(
    out: Path,
    num_images: int,
    *,
    seed: int,
    size: int = 256,
    processes: int | None = None,
    view_confounding: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `num_images` phantoms of `size` px as NIH publishes its images, and all their signs in phantom_truth.csv.

    Boxes are written as NIH has them: for eight findings of test images, in the 1024-px frame. `progress(done, total)`
    is called as images are written. `out` appears at the end and complete. Raises UserError where `out` holds files.
    """
    _refuse_used(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = population(num_images, seed=seed, view_confounding=view_confounding)
    with atomic_path(out) as part:
        part.mkdir()
        _write_tables(part, table, seed)
        _write_images(part, table, seed=seed, size=size, processes=processes, progress=progress)


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "the folder for the phantoms exists and is not empty",
            where=str(out),
            hint="name a new folder, or remove it",
        )


def _write_tables(folder: Path, table: pd.DataFrame, seed: int) -> None:
    rows = table.to_dict("records")
    _write_lines(folder / DATA_ENTRY, [DATA_ENTRY_HEADER, *(_entry(row, seed) for row in rows)])
    _write_lines(folder / BBOX_LIST, [BBOX_HEADER, *_boxes(rows)])
    for split in ("train_val", "test"):
        # NIH's lists end without a newline.
        (folder / f"{split}_list.txt").write_text("\n".join(table.image[table.split == split]), "ascii")
    truth = [{"image": row["image"], **sign} for row in rows for sign in row["signs"]]
    columns = ["image", "finding", "severity", "side", "onset", "x", "y", "w", "h"]
    pd.DataFrame(truth, columns=columns).to_csv(folder / TRUTH, index=False, quoting=csv.QUOTE_MINIMAL)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", "ascii")


def _entry(row: dict, seed: int) -> str:
    labels = labels_field(NIH.decode(row["labels"]))
    width, height, spacing = _DETECTORS[int(stream(seed, row["patient_id"], "detector").integers(len(_DETECTORS)))]
    fields = (row["image"], labels, row["follow_up"], int(row["patient_id"]), row["age"], row["sex"], row["view"])
    return ",".join(map(str, (*fields, width, height, spacing, spacing)))


def _boxes(rows: list[dict]) -> list[str]:
    lines = []
    for finding in BOXED_FINDINGS:
        for row in (row for row in rows if row["split"] == "test"):
            for sign in (sign for sign in row["signs"] if sign["finding"] == finding):
                box = (f"{sign[key]:.15g}" for key in "xywh")
                lines.append(",".join((row["image"], box_name(finding), *box)))
    return lines


def _write_images(
    folder: Path,
    table: pd.DataFrame,
    *,
    seed: int,
    size: int,
    processes: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    todo, per_folder = cases(table, seed=seed), -(-len(table) // NUM_FOLDERS)
    paths = [
        folder / f"images_{i // per_folder + 1:03d}" / "images" / f"{case.image_id}.png" for i, case in enumerate(todo)
    ]
    for parent in dict.fromkeys(path.parent for path in paths):
        parent.mkdir(parents=True)
    # Not "fork": a child of a process in which OpenCV has started threads waits for them for ever.
    context = get_context("forkserver")
    with ProcessPoolExecutor(processes, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for done, _ in enumerate(pool.map(partial(_write_image, size=size), todo, paths, chunksize=16), start=1):
            if progress:
                progress(done, len(todo))


def _write_image(case: Case, path: Path, *, size: int) -> None:
    path.write_bytes(read_bytes(case, size))
