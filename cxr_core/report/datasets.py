"""What the data are: who was imaged, what was found, what was odd, and what it looks like."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING
from cxr_core.data.problems import count_cases
from cxr_core.generation.series import MadeSeries, made_series
from cxr_core.report.blocks import (
    Block,
    Box,
    Charts,
    Column,
    Details,
    FactList,
    Gallery,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)
from cxr_core.report.picture import as_picture
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, percent, plain, several
from cxr_core.seeds import unit_hash

SPLITS = ("train", "val", "test", "synthetic")

EXAMPLES_PER_KIND = 20
"""Rows of problems.csv that are shown of each kind."""


def dataset_section(run: RunView) -> Section:
    """Each Dataset of the run in numbers."""
    blocks: list[Block] = []
    for stage in (*run.of_kind("preprocess"), *run.of_kind("generate")):
        blocks.append(Heading(_title(stage)))
        blocks += _in_numbers(stage.dataset) if stage.dataset else [not_yet(stage)]
    return Section("dataset", "Dataset", blocks or [Text("This run makes no Dataset.", "absent")])


def not_yet(stage: StageView) -> Text:
    """The line that stands for what an unfinished stage will give."""
    progress = "" if stage.state == "not run yet" else f" ({stage.state} are committed)"
    verb = "not run yet" if not progress else "not finished yet"
    return Text(f"Stage “{stage.name}” ({stage.kind}): {verb}{progress}.", "absent")


def histogram_section(run: RunView) -> Section:
    """Shares of the findings among real training images, beside those of each synthetic Dataset."""
    blocks: list[Block] = []
    for real in run.of_kind("preprocess"):
        if real.dataset is None:
            blocks.append(not_yet(real))
            continue
        like = [stage for stage in run.of_kind("generate") if run.input_of(stage, "like") == real]
        blocks += [_histogram(real, like)]
        blocks += [not_yet(stage) for stage in like if stage.dataset is None]
    return Section("classes", "Classes", blocks or [Text("This run has no real Dataset.", "absent")])


def problems_section(run: RunView) -> Section:
    """What was odd with images, per kind, and what was done about it."""
    blocks: list[Block] = []
    for stage in (*run.of_kind("preprocess"), *run.of_kind("generate")):
        if not stage.is_done:
            blocks.append(not_yet(stage))
        elif stage.problems is None or stage.problems.empty:
            blocks.append(Text(f"Stage “{stage.name}” found no problem."))
        else:
            blocks += _problems(stage.name, stage.problems)
    return Section("problems", "Problems found", blocks or [Text("This run makes no Dataset.", "absent")])


def examples_section(run: RunView) -> Section:
    """Real images with their prompts and boxes."""
    blocks: list[Block] = []
    for stage in run.of_kind("preprocess"):
        blocks.append(_examples(stage.origin, stage.dataset) if stage.dataset else not_yet(stage))
    return Section("examples", "Real images", blocks or [Text("This run has no real Dataset.", "absent")])


def _title(stage: StageView) -> str:
    return f"{stage.origin.capitalize()} images: stage “{stage.name}”"


def _in_numbers(dataset: Dataset) -> Iterator[Block]:
    splits = [split for split in SPLITS if (dataset.rows["split"] == split).any()]
    parts = {split: dataset.rows[dataset.rows["split"] == split] for split in splits}
    if len(splits) > 1:
        parts["all"] = dataset.rows
    yield _people(dataset, parts)
    yield _findings(dataset, parts)
    about = {name: value for name, value in dataset.info.about.items() if name != "series"}
    made = made_series(dataset)
    if len(made) > 1:
        yield _series(made)
    elif made:
        about |= {"drawn by": made[0].words, "request": made[0].request.model_dump(exclude_none=True)}
    learnt = [one.training_data.words for one in made if one.training_data]
    if learnt:
        about["the model learnt from"] = list(dict.fromkeys(learnt))
    about = {key: value for key, value in about.items() if key not in _SHOWN_ELSEWHERE and value is not None}
    facts = [(plain(key), _short(value)) for key, value in about.items()]
    yield FactList([("form", f"8-bit grey, {dataset.info.size} × {dataset.info.size} pixels"), *facts])


def _series(made: Sequence[MadeSeries]) -> Table:
    columns = [Column("series"), Column("images", numeric=True), Column("drawn by"), Column("model")]
    rows = [[one.name, count(one.num_images), one.words, one.model[:16]] for one in made]
    return Table("The series of this Dataset: what was asked for, and what drew it.", columns, rows)


_SHOWN_ELSEWHERE = ("problems", "gate")


def _short(value: Any) -> str:
    """A value of `about` as one line, without what is not set."""
    if isinstance(value, Mapping):
        return "; ".join(f"{plain(str(key))}: {_short(inner)}" for key, inner in value.items() if inner not in _UNSET)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return listed([_short(inner) for inner in value]) if isinstance(value, list | tuple) else str(value)


_UNSET: tuple[Any, ...] = (None, [], {}, "")


def _people(dataset: Dataset, parts: Mapping[str, pd.DataFrame]) -> Table:
    rows = [["images", *(count(len(part)) for part in parts.values())]]
    if not dataset.info.synthetic:
        rows.append(["patients", *(count(part["patient_id"].nunique()) for part in parts.values())])
    rows += _shares(parts, "view", {"PA": "view PA", "AP": "view AP", "": "view unknown"})
    rows += _shares(parts, "sex", {"F": "female", "M": "male", "": "sex unknown"})
    rows += _ages(parts)
    if any(len(boxes) for boxes in dataset.rows["boxes"]):
        rows.append(["with boxes", *(count(sum(len(b) > 0 for b in part["boxes"])) for part in parts.values())])
    notes = [] if dataset.info.synthetic else [_overlap(dataset.rows)]
    what = "Images" if dataset.info.synthetic else "Images and patients by split"
    return Table(f"{what}.", _columns("", parts), rows, frozenset({0}), notes)


def _overlap(rows: pd.DataFrame) -> str:
    """Whether splits share patients: counted, not assumed."""
    shared = int((rows.groupby("patient_id")["split"].nunique() > 1).sum())
    return f"{several(shared, 'patient')} in more than one split." if shared else "No patient is in two splits."


def _shares(parts: Mapping[str, pd.DataFrame], column: str, names: Mapping[str, str]) -> list[list[str]]:
    """A row per value that occurs: count and share. No rows where nothing is known of any image."""
    found = {value for part in parts.values() for value in part[column].unique()}
    if found <= {""}:
        return []
    rows = []
    for value in [*names, *sorted(found - set(names))]:
        if value in found:
            numbers = [((part[column] == value).sum(), len(part)) for part in parts.values()]
            rows.append([names.get(value, value), *(f"{count(n)} ({percent(n, all_)})" for n, all_ in numbers)])
    return rows


def _ages(parts: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    if not any(part["age"].notna().any() for part in parts.values()):
        return []
    return [
        [f"age, {name}", *(_quantile(part["age"], q) for part in parts.values())]
        for name, q in (("5th percentile", 0.05), ("median", 0.5), ("95th percentile", 0.95))
    ]


def _quantile(ages: pd.Series, q: float) -> str:
    return f"{ages.quantile(q):.0f} years" if ages.notna().any() else "–"


def _findings(dataset: Dataset, parts: Mapping[str, pd.DataFrame]) -> Table:
    names = class_names(dataset)
    numbers = {split: class_counts(dataset, part) for split, part in parts.items()}
    occurring = [i for i, name in enumerate(names) if any(numbers[split][i] for split in parts)]
    rows = [[plain(names[i]), *(count(numbers[split][i]) for split in parts)] for i in occurring]
    multiple = [sum(int(bits).bit_count() > 1 for bits in part["labels"]) for part in parts.values()]
    notes = []
    if any(multiple):
        rows.append(["more than one finding", *map(count, multiple)])
        notes = ["An image with several findings counts for each of them, so a column adds up to more than its images."]
    if len(occurring) < len(names):
        notes.append(f"Without an image: {listed([plain(n) for i, n in enumerate(names) if i not in occurring])}.")
    return Table("Images per finding.", _columns("finding", parts), rows, notes=notes)


def _columns(first: str, parts: Mapping[str, pd.DataFrame]) -> list[Column]:
    return [Column(first), *(Column(split, numeric=True) for split in parts)]


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """The findings and, last, No Finding."""
    return (*dataset.info.findings, NO_FINDING)


def class_counts(dataset: Dataset, rows: pd.DataFrame) -> list[int]:
    """Images per name of `class_names`."""
    matrix = dataset.label_matrix(rows)
    return [*matrix.sum(axis=0).astype(int).tolist(), int((rows["labels"] == 0).sum())]


def _histogram(real: StageView, like: Sequence[StageView]) -> Charts:
    from cxr_core.report import figures

    assert real.dataset is not None
    train = real.dataset.rows[real.dataset.rows["split"] == "train"]
    counts = dict(zip(class_names(real.dataset), class_counts(real.dataset, train), strict=True))
    names = sorted(counts, key=lambda name: -counts[name])
    groups = [(f"{real.origin}, train", figures.REAL, [counts[name] for name in names], len(train))]
    for stage in like:
        if stage.dataset:
            made = dict(zip(class_names(stage.dataset), class_counts(stage.dataset, stage.dataset.rows), strict=True))
            numbers = [made.get(name, 0) for name in names]
            label = "synthetic" if len(like) == 1 else f"synthetic, {stage.name}"
            groups.append((label, figures.SYNTHETIC, numbers, stage.dataset.info.num_images))
    shares = "; ".join(f"{plain(name)} {percent(counts[name], len(train))}" for name in names)
    alt = f"Shares among {real.origin} training images: {shares}."
    ns = "; ".join([f"{label}: n = {count(whole)}" for label, _, _, whole in groups])
    chart = figures.share_bars(f"classes-{real.name}", [plain(name) for name in names], groups, alt)
    return Charts([chart], f"Share of images with each finding; the number at a bar is its count ({ns}).")


def _problems(name: str, table: pd.DataFrame) -> Iterator[Block]:
    cases = count_cases(table)
    groups = [(str(kind), rows) for kind, rows in table.groupby("kind", sort=False)]
    lines = [[plain(kind), count(cases[kind]), listed(sorted(rows["action"].unique()))] for kind, rows in groups]
    columns = [Column("kind"), Column("cases", numeric=True), Column("what was done")]
    yield Table(f"{several(sum(cases.values()), 'problem')} met by stage “{name}”, by kind.", columns, lines)
    for kind, rows in groups:
        shown = rows.head(EXAMPLES_PER_KIND)
        columns = [Column("image"), Column("file"), Column("detail"), Column("done")]
        cells = shown[["image_id", "file", "detail", "action"]].to_numpy().tolist()
        caption = f"The first {len(shown)} of {several(len(rows), 'case')}; all are in {name}/problems.csv."
        if cases[kind] > len(rows):
            caption = f"{several(cases[kind], 'case')} in one line; each is in the list that it names, below {name}/."
        yield Details(f"{plain(kind)}: {several(cases[kind], 'case')}", [Table(caption, columns, cells)])


def _examples(origin: str, dataset: Dataset) -> Gallery:
    rows = pick_examples(dataset)
    pictures = [_example(dataset, row) for row in rows.itertuples()]
    size = dataset.info.size
    caption = (
        f"n = {len(pictures)} of {count(len(dataset.rows))} {origin} images, {size} × {size} pixels as stored: for "
        "each class one image, with a box where there is one, else drawn by a hash of its id. Below each: its prompt, "
        "and its split. Boxes (yellow) are those of the source, moved with the image."
    )
    return Gallery(pictures, caption)


def pick_examples(dataset: Dataset) -> pd.DataFrame:
    """One row a class that occurs, each image once: with a box of that finding before others, then by a hash."""
    rows = dataset.rows
    order = np.argsort([unit_hash("report example", image_id) for image_id in rows["image_id"]], kind="stable")
    rows = rows.iloc[order]
    chosen: list[int] = []
    for name in class_names(dataset):
        has = (rows["labels"] == 0) if name == NO_FINDING else (rows["labels"] & dataset.findings.bit(name)) > 0
        found = rows[has & ~rows.index.isin(chosen)]
        if len(found):
            boxed = [any(box["finding"] == name for box in boxes) for boxes in found["boxes"]]
            chosen.append(int(found.index[int(np.argmax(boxed))]))
    return dataset.rows.loc[chosen]


def _example(dataset: Dataset, row: Any) -> Picture:
    names = [plain(name) for name in dataset.findings.decode(row.labels)]
    boxes = [Box(plain(box["finding"]), box["x"], box["y"], box["w"], box["h"]) for box in row.boxes]
    boxed = f" Boxes: {listed([box.name for box in boxes])}." if boxes else ""
    return as_picture(
        dataset.image(row),
        f"Chest X-ray {row.image_id}, view {row.view or 'unknown'}: {listed(names)}.{boxed}",
        title=listed(names),
        lines=(f"“{row.prompt}”", f"{row.image_id}, {row.split}"),
        boxes=boxes,
    )
