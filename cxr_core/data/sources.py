"""The plan of a preprocess stage: which radiographs, from where, in which split, with which prompt. Opens no image."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_core.data.boxfile import boxes_without_label, read_boxes
from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.folders import image_files, passed_over_words
from cxr_core.data.positions.split import BoxedSplit, move_boxed
from cxr_core.data.problems import decide_all, passed_over, problem_frame
from cxr_core.data.prompts import PromptWriter, check_lengths
from cxr_core.data.settings import ChestXray14Data, PhantomData, Policies, PreprocessStage, TableData
from cxr_core.data.splits import carve_validation, check_disjoint, choose_patients, read_names
from cxr_core.data.table import SourceTable, read_table
from cxr_core.errors import UserError

MAX_AGE = 120


@dataclass(frozen=True)
class SourcePlan:
    """`rows`: one for each image to be read, sorted by image id (columns of `preprocess.SOURCE`); `problems` so far;
    `boxed` says who was moved out of test, where that was asked for."""

    rows: pd.DataFrame
    findings: Findings
    problems: pd.DataFrame
    boxed: BoxedSplit | None = None


def plan_source(settings: PreprocessStage) -> SourcePlan:
    """Decide what is read. Raises UserError for every mistake in tables, lists and folders."""
    data, policies = settings.data, settings.policies
    table, contradictions = boxes_without_label(_read(data), policies)
    check_disjoint(table.rows, table.path)
    rows = table.rows.assign(split=carve_validation(table.rows, settings.validation))
    boxed, problems = None, [contradictions]
    if settings.move_boxed:
        rows["split"], boxed = move_boxed(rows, table.boxes["image_id"], settings.move_boxed)
    if isinstance(data, PhantomData):
        rows["file"] = "phantom"
    else:
        rows, found = _locate(rows, table.path, data, policies)
        problems += found
        rows, found = _leave_out_listed(rows, table, data.exclude_lists, policies)
        problems += found
    for step in (_views, _ages):
        rows, found = step(rows, table.path, policies)
        problems += found
    if rows.empty:
        raise UserError("no image is left", where=str(table.path), mend="see `policies`, `exclude_lists` and `images`")
    rows = choose_patients(rows, settings.num_images).sort_values("image_id", ignore_index=True)
    problems.append(_boxes_without_row(table))
    rows["boxes"] = _boxes_of(rows["image_id"], table)
    rows["prompt"] = _prompts(rows, settings, table.findings)
    return SourcePlan(rows, table.findings, pd.concat(problems, ignore_index=True), boxed)


def _read(data: ChestXray14Data | TableData | PhantomData) -> SourceTable:
    if isinstance(data, PhantomData):
        return _read_phantom(data)
    table = read_table(data) if isinstance(data, TableData) else read_chestxray14(data)
    further = [read_boxes(file, table.findings) for file in data.further_boxes]
    boxes = pd.concat([table.boxes, *further], ignore_index=True) if further else table.boxes
    return SourceTable(table.path, table.findings, table.rows.assign(signs=""), boxes)


def _read_phantom(data: PhantomData) -> SourceTable:
    """The population that `write_layout` would write, with the same boxes: some findings, of test images or of all."""
    from cxr_core.data.phantom import population
    from cxr_core.data.phantom.layout import BOXED_FINDINGS

    rows = population(data.images, seed=data.seed, view_confounding=data.view_confounding, findings=data.findings)
    boxes = [
        {"image_id": image_id, "finding": sign["finding"]} | {name: float(f"{sign[name]:.15g}") for name in "xywh"}
        for image_id, signs in zip(rows["image_id"], rows["signs"], strict=True)
        for sign in signs
        if sign["finding"] in BOXED_FINDINGS
    ]
    boxed = set(rows.loc[(rows["split"] == "test") | (data.boxes == "all"), "image_id"])
    rows = rows.assign(
        split=rows["split"].replace("train_val", "train"),
        age=rows["age"].astype("float64"),
        signs=[json.dumps(signs) for signs in rows["signs"]],
        row=rows.index + 2,
    )
    columns = ["image_id", "finding", *"xywh"]
    kept = pd.DataFrame([box for box in boxes if box["image_id"] in boxed], columns=columns)
    return SourceTable(Path("phantom"), NIH, rows.drop(columns="image"), kept)


def find_images(folders: Sequence[Path], odd: list[dict[str, str]]) -> dict[str, str]:
    """Image id -> path of every PNG file below `folders`, at any depth; what `image_files` passes over goes to `odd`.

    Raises UserError for a folder that is missing, unreadable (also any below it) or holds none, and for a name found
    twice, naming both.
    """
    found: dict[str, str] = {}
    for folder in folders:
        before, num_odd = len(found), len(odd)
        for path in image_files(folder, odd):
            name = os.path.basename(path)[:-4]  # noqa: PTH119 - a hundred thousand Path objects take a second
            if name in found:
                raise UserError(
                    f"image {name!r} is there twice",
                    where=f"{found[name]} and {path}",
                    mend="remove one, or name folders in `images` that do not overlap",
                )
            found[name] = path
        if len(found) == before:
            raise UserError(
                f"no PNG file below this folder{passed_over_words(odd[num_odd:])}",
                where=str(folder),
                mend="correct `images` in the config",
            )
    return found


def _locate(
    rows: pd.DataFrame, path: Path, data: ChestXray14Data | TableData, policies: Policies
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    folders = data.images or ((data.metadata,) if isinstance(data, ChestXray14Data) else ())
    odd: list[dict[str, str]] = []
    found = find_images(folders, odd)
    files = rows["image_id"].map(found)
    absent = rows[files.isna()]
    if len(absent) and data.missing == "fail":
        raise UserError(
            f"{len(absent)} of {len(rows)} rows have no image; the first is {_named(absent['image_id'].iloc[0], odd)}",
            where=f"{path}, row {absent['row'].iloc[0]}",
            mend="add the folder that holds them to `images`, or go on with what is there: `missing: subset`",
        )
    strangers = sorted(set(found) - set(rows["image_id"]))
    without_row = problem_frame(
        "image_without_row", strangers, [found[name] for name in strangers], "no row in the table", ""
    )
    without_image = problem_frame(
        "row_without_image", absent["image_id"], _row_names(absent, path), "no image of this name", "left out"
    )
    problems = [decide_all(policies, without_row), without_image, *passed_over(odd, policies)]
    return rows.assign(file=files)[files.notna()], problems


def _named(image_id: str, odd: Sequence[Mapping[str, str]]) -> str:
    """An image id, with what stands in its place where the walk over the folders found that."""
    instead = [f"{found['file']} is {found['detail']}" for found in odd if found["image_id"] == image_id]
    return ": ".join((repr(image_id), *instead[:1]))


def _row_names(rows: pd.DataFrame, path: Path) -> list[str]:
    return [f"{path}, row {row}" for row in rows["row"]]


def _leave_out_listed(
    rows: pd.DataFrame, table: SourceTable, lists: Sequence[Path], policies: Policies
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    problems, listed = [], pd.Series(False, index=rows.index)
    for path in lists:
        names = read_names(path)
        if not names.isin(table.rows["image_id"]).any():
            raise UserError(
                f"none of its {len(names)} names is in {table.path.name}; the first is {names[0]!r}",
                where=str(path),
                mend="give one file name a line, or remove it from `exclude_lists`",
            )
        here = rows["image_id"].isin(names)
        listed |= here
        hit = rows[here]
        found = problem_frame("listed", hit["image_id"], hit["file"].to_list(), f"named in {path.name}", "")
        problems.append(decide_all(policies, found))
    return (rows if policies.listed == "keep" else rows[~listed]), problems


def _views(rows: pd.DataFrame, path: Path, policies: Policies) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    other = ~rows["view"].isin(["PA", "AP", ""])
    bad = rows[other]
    details = [f"view {view!r}" for view in bad["view"]]
    found = problem_frame("other_view", bad["image_id"], _row_names(bad, path), details, "")
    rows = rows.assign(view=rows["view"].mask(other, "")) if policies.other_view == "keep" else rows[~other]
    return rows, [decide_all(policies, found)]


def _ages(rows: pd.DataFrame, path: Path, policies: Policies) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    impossible = rows["age"] > MAX_AGE
    bad = rows[impossible]
    details = [f"{age:g} years" for age in bad["age"]]
    found = problem_frame("impossible_age", bad["image_id"], _row_names(bad, path), details, "")
    converted = policies.impossible_age == "convert"
    rows = rows.assign(age=rows["age"].mask(impossible, np.nan)) if converted else rows[~impossible]
    return rows, [decide_all(policies, found)]


def _boxes_without_row(table: SourceTable) -> pd.DataFrame:
    lost = table.boxes[~table.boxes["image_id"].isin(table.rows["image_id"])]
    return problem_frame("box_without_row", lost["image_id"], str(table.path), lost["finding"].to_list(), "left out")


def _boxes_of(images: pd.Series, table: SourceTable) -> pd.Series:
    """The boxes of each image, in an order that does not depend on their file's."""
    order = table.boxes["finding"].map(table.findings.bit)
    boxes = table.boxes.assign(order=order).sort_values(["image_id", "order", *"xywh"])
    of_image = {
        image_id: group[["finding", *"xywh"]].to_dict("records")
        for image_id, group in boxes[boxes["image_id"].isin(images)].groupby("image_id")
    }
    return pd.Series([of_image.get(image_id, []) for image_id in images], index=images.index, dtype=object)


def _prompts(rows: pd.DataFrame, settings: PreprocessStage, findings: Findings) -> list[str]:
    write = PromptWriter(settings.prompts, findings)
    ages = rows["age"].fillna(-1).astype("int64")
    keys = list(zip(rows["labels"], rows["view"], ages, rows["sex"], strict=True))
    texts = {key: write(key[0], key[1], None if key[2] < 0 else key[2], key[3]) for key in dict.fromkeys(keys)}
    prompts = [texts[key] for key in keys]
    check_lengths(dict(zip(prompts, rows["image_id"], strict=True)), settings.prompts.tokenizer)
    return prompts
