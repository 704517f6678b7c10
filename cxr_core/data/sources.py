"""The plan of a preprocess stage: which radiographs, from where, in which split, with which prompt. Opens no image."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_core.data.boxfile import boxes_without_label, read_boxes
from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.folders import image_files, passed_over_words
from cxr_core.data.lists import ListEntry, entry_problems, look_up
from cxr_core.data.locate import Files, Located, locate
from cxr_core.data.positions.split import BoxedSplit
from cxr_core.data.problems import ACTIONS, decide_all, passed_over, problem_frame
from cxr_core.data.prompts import PromptWriter, check_lengths
from cxr_core.data.references import ending
from cxr_core.data.settings import ChestXray14Data, PhantomData, Policies, PreprocessStage, TableData
from cxr_core.data.splits import choose_patients, one_person, split_patients
from cxr_core.data.table import SourceTable, read_table
from cxr_core.errors import UserError

MAX_AGE = 120


@dataclass(frozen=True)
class SourcePlan:
    """`rows`: one for each image to be read, sorted by image id (columns of `preprocess.SOURCE`); `problems` so far;
    `boxed` says who was moved out of test, where that was asked for; `notes` are for people."""

    rows: pd.DataFrame
    findings: Findings
    problems: pd.DataFrame
    boxed: BoxedSplit | None = None
    notes: tuple[str, ...] = ()


def plan_source(settings: PreprocessStage) -> SourcePlan:
    """Decide what is read. Raises UserError for every mistake in tables, lists and folders."""
    data, policies = settings.data, settings.policies
    table, contradictions = boxes_without_label(_read(data), policies)
    rows, alike = one_person(table.rows, table.path, policies)
    problems = [contradictions, alike]
    rows, boxed = split_patients(rows, table.boxes, table.path, settings)
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
        raise _none_left(table, problems)
    rows = choose_patients(rows, settings.num_images).sort_values("image_id", ignore_index=True)
    problems.append(_boxes_without_row(table))
    rows["boxes"] = _boxes_of(rows["image_id"], table)
    rows["prompt"] = _prompts(rows, settings, table.findings)
    rows["patient_id"] = rows.pop("spelled")
    every = pd.concat(problems, ignore_index=True)
    return SourcePlan(rows, table.findings, every, boxed, (*table.notes, *_notes(every)))


def _none_left(table: SourceTable, problems: Sequence[pd.DataFrame]) -> UserError:
    """Of what left all images out, the kinds, and the first case of the commonest."""
    every = pd.concat(problems, ignore_index=True)
    out = every[
        (every["action"] == ACTIONS["exclude"]) & every["kind"].isin([*Policies.model_fields, "row_without_image"])
    ]
    if out.empty:
        return UserError("no image is left", where=str(table.path), hint="see `images`")
    numbers = out["kind"].value_counts()
    said = ", ".join(f"{num} {kind}" for kind, num in numbers.items())
    first = out[out["kind"] == numbers.index[0]].iloc[0]
    return UserError(
        f"no image is left of {len(table.rows)}: {said}; the first is {first['file']}: {first['detail']}",
        where=str(table.path),
        hint=f"{_KEPT_BY.get(str(numbers.index[0]), 'choose what happens with `policies`')}; see docs/tables.md",
    )


_KEPT_BY = {
    "other_view": "say what these views are with `views: {...: PA}`, or keep them with `policies: {other_view: keep}`",
    "listed": "correct `exclude_lists`",
    "row_without_image": "correct `images`",
}
"""How images are kept that a kind of problem leaves out."""


def _read(data: ChestXray14Data | TableData | PhantomData) -> SourceTable:
    if isinstance(data, PhantomData):
        return _read_phantom(data)
    table = read_table(data) if isinstance(data, TableData) else read_chestxray14(data)
    boxes = [_with_ids(table.boxes, table.path, table.rows)]
    for file in data.further_boxes:
        boxes.append(_with_ids(read_boxes(file, table.findings), file.path, table.rows))
    rows = table.rows.assign(signs="")
    return replace(table, rows=rows, boxes=pd.concat(boxes, ignore_index=True))


def _with_ids(boxes: pd.DataFrame, path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Boxes whose `image_id` is how their file names the image, with that of the table in its place, if it has one."""
    named = boxes["image_id"].unique().tolist()
    places = look_up(path, rows, [ListEntry(name) for name in named]).places
    ids = {name: rows["image_id"].iloc[place] for name, place in zip(named, places, strict=True) if place >= 0}
    return boxes.assign(image_id=boxes["image_id"].map(lambda name: ids.get(name, name)))


def _read_phantom(data: PhantomData) -> SourceTable:
    """The population that `write_layout` would write, with the same boxes: some findings, of test images or of all."""
    from cxr_core.data.phantom import population
    from cxr_core.data.phantom.layout import BOXED_FINDINGS

    rows = population(data.num_images, seed=data.seed, view_confounding=data.view_confounding, findings=data.findings)
    boxes = [
        {"image_id": image_id, "finding": sign["finding"]} | {name: float(f"{sign[name]:.15g}") for name in "xywh"}
        for image_id, signs in zip(rows["image_id"], rows["signs"], strict=True)
        for sign in signs
        if sign["finding"] in BOXED_FINDINGS
    ]
    boxed = set(rows.loc[(rows["split"] == "test") | (data.boxed_patients == "all"), "image_id"])
    rows = rows.assign(
        split=rows["split"].replace("train_val", "train"),
        age=rows["age"].astype("float64"),
        signs=[json.dumps(signs) for signs in rows["signs"]],
        row=rows.index + 2,
        reference=rows["image_id"],
    )
    columns = ["image_id", "finding", *"xywh"]
    kept = pd.DataFrame([box for box in boxes if box["image_id"] in boxed], columns=columns)
    return SourceTable(Path("phantom"), NIH, rows.drop(columns="image"), kept)


def find_images(folders: Sequence[Path], odd: list[dict[str, str]]) -> Files:
    """Every PNG file below `folders`, at any depth; what `image_files` passes over goes to `odd`.

    Raises UserError for a folder that is missing, unreadable (also any below it) or holds none.
    """
    found = Files()
    for folder in folders:
        before, num_odd = len(found.paths), len(odd)
        for path in image_files(folder, odd):
            found.add(path, str(folder.absolute()))
        if len(found.paths) == before:
            raise _no_png(folder, odd[num_odd:])
    return found


def _no_png(folder: Path, odd: Sequence[Mapping[str, str]]) -> UserError:
    what = f"no PNG file below this folder{passed_over_words(odd)}"
    others = Counter(ending(name) for _, _, names in os.walk(folder) for name in names)
    others.pop("", None)
    if not others:
        return UserError(what, where=str(folder), hint="correct `images` in the config")
    (other, num), *_ = others.most_common(1)
    hint = "make PNG files of them (the example in docs/tables.md does), or correct `images` in the config"
    return UserError(f"{what}, but {num} files with {other}", where=str(folder), hint=hint)


def _locate(
    rows: pd.DataFrame, path: Path, data: ChestXray14Data | TableData, policies: Policies
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    folders = data.images or ((data.metadata,) if isinstance(data, ChestXray14Data) else ())
    odd: list[dict[str, str]] = []
    located = locate(rows, find_images(folders, odd), str(path))
    absent = rows[located.files.isna()]
    if len(absent) and data.missing == "fail":
        raise _without_image(rows, absent, located, odd, path)
    strangers = sorted(located.strangers, key=_name)
    without_row = problem_frame("image_without_row", map(_name, strangers), strangers, "no row in the table", "")
    details = [_contradicting(located.near.get(index)) for index in absent.index]
    without_image = problem_frame(
        "row_without_image", absent["image_id"], _row_names(absent, path), details, "left out"
    )
    problems = [decide_all(policies, without_row), without_image, *passed_over(odd, policies)]
    return rows.assign(file=located.files)[located.files.notna()], problems


def _name(path: str) -> str:
    return os.path.basename(path)[:-4]  # noqa: PTH119 - a hundred thousand Path objects take a second


def _contradicting(near: str | None) -> str:
    return f"no image of this name in these folders, only {near}" if near else "no image of this name"


def _without_image(
    rows: pd.DataFrame, absent: pd.DataFrame, located: Located, odd: Sequence[Mapping[str, str]], path: Path
) -> UserError:
    """Of rows whose file has another place than the table says, the first is named; else the first of all."""
    contradicted = absent[absent.index.isin(located.near)]
    first = (contradicted if len(contradicted) else absent).iloc[0]
    what = f"{len(absent)} of {len(rows)} rows have no image; the first is {_named(first['reference'], odd)}"
    hint = "add the folder that holds them to `images`, or go on with what is there: `missing: subset`"
    if len(contradicted):
        what = (
            f"{len(absent)} of {len(rows)} rows have no image; for {len(contradicted)} a file of this name lies in "
            f"other folders: {first['reference']!r}, but {located.near[contradicted.index[0]]}"
        )
        hint = (
            "if these are the images, name in `images` the folder that holds the files themselves, or the one from "
            f"which on the table's paths are true; {hint}"
        )
    return UserError(what, where=f"{path}, row {first['row']}", hint=hint)


def _named(reference: str, odd: Sequence[Mapping[str, str]]) -> str:
    """An image, with what stands in its place where the walk over the folders found that."""
    name = reference.rpartition("/")[2]
    instead = [f"{found['file']} is {found['detail']}" for found in odd if found["image_id"] == name]
    return ": ".join((repr(reference), *instead[:1]))


def _row_names(rows: pd.DataFrame, path: Path) -> list[str]:
    return [f"{path}, row {row}" for row in rows["row"]]


def _leave_out_listed(
    rows: pd.DataFrame, table: SourceTable, lists: Sequence[Path], policies: Policies
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    problems, out = [], pd.Series(False, index=rows.index)
    for path in lists:
        listed = look_up(path, table.rows)
        if not listed.named.any():
            raise UserError(
                f"none of its {len(listed.entries)} entries is an image of {table.path.name}; the first is "
                f"{listed.entries[0].text!r}",
                where=str(path),
                hint="give one file name a line, or a CSV with a column `image`, or remove it from `exclude_lists`",
            )
        here = listed.named[rows.index]
        out |= here
        hit = rows[here]
        found = problem_frame("listed", hit["image_id"], hit["file"].to_list(), f"named in {path.name}", "")
        problems += [decide_all(policies, found), *entry_problems(listed)]
    return (rows if policies.listed == "keep" else rows[~out]), problems


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


_SAID = {
    "list_entry_without_image": "entries of lists that name no image",
    "list_entry_twice": "entries of lists that name an image again",
    "similar_patients": "patients written in several ways",
    "other_view": "views other than PA and AP",
}
"""Problems of tables and lists that are said at once, since they may mean that something was written otherwise."""


def _notes(problems: pd.DataFrame) -> list[str]:
    """A line for each kind in `_SAID` that occurs, with its first case."""
    lines = []
    for kind, what in _SAID.items():
        cases = problems[problems["kind"] == kind]
        if len(cases):
            first = cases.iloc[0]
            lines.append(f"{what}: {len(cases)} ({first['action']}), the first: {first['file']}: {first['detail']}")
    return lines


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
