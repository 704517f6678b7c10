"""The report that may be shared: a page of its own, made of public figures alone (`cxr_core.boundary`).

It is no filtered copy of the internal page, whose tables count few patients and whose pictures are real: what stands
here was put here. No real image, no id, no count of fewer than 10 patients nor one that follows from others, no text of
the run's config, machine or people.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from cxr_core.boundary import FEWEST_PATIENTS, public_run, withheld, withheld_findings
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING
from cxr_core.data.shareable import shareable
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import Metrics
from cxr_core.report.blocks import Block, Column, FactList, Gallery, Heading, Picture, Section, Table, Text
from cxr_core.report.datasets import class_counts, class_names, not_yet, pick_examples
from cxr_core.report.evaluation import read_metrics
from cxr_core.report.model_card import numbers
from cxr_core.report.picture import as_picture
from cxr_core.report.provenance import glossary_section
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several
from cxr_core.report.training import curves
from cxr_core.report.utility import ARMS

_HIDDEN = "withheld"
_AGES = [0, 20, 40, 60, 80, 200]


def public_sections(run: RunView) -> list[Section]:
    """All sections of the page."""
    return [
        Section("summary", "Summary", [_stages(run)]),
        Section("dataset", "Dataset", list(_datasets(run)) or [Text("This run makes no Dataset.", "absent")]),
        Section("training", "Training", list(_training(run)) or [Text("This run trains nothing.", "absent")]),
        Section("results", "Results", list(_results(run)) or [Text("This run evaluates nothing.", "absent")]),
        Section("provenance", "Provenance", list(_provenance(run))),
        glossary_section(),
    ]


def _stages(run: RunView) -> Table:
    rows = [[stage.name, f"{stage.kind} {stage.model}".strip(), stage.state] for stage in run.stages]
    return Table("Stages of the run.", [Column("stage"), Column("kind"), Column("state")], rows)


def _datasets(run: RunView) -> Iterator[Block]:
    for stage in (*run.of_kind("preprocess"), *run.of_kind("generate")):
        yield Heading(f"{stage.origin.capitalize()} images: stage “{stage.name}”")
        if stage.dataset is None:
            yield not_yet(stage)
        elif stage.dataset.info.synthetic:
            yield from _synthetic(stage.dataset)
        else:
            yield from _real(stage.dataset)


def _synthetic(stored: Dataset) -> Iterator[Block]:
    try:
        dataset = shareable(stored, internal=False)
    except UserError as error:
        yield Text(f"Not shown: it {error.what}.", "absent")
        return
    found = zip(class_names(dataset), class_counts(dataset, dataset.rows), strict=True)
    rows = [[plain(name), count(num)] for name, num in found if num]
    columns = [Column("finding"), Column("images", numeric=True)]
    yield Table(f"{several(dataset.info.num_images, 'synthetic image')}, by what was asked for.", columns, rows)
    pictures = [_picture(dataset, row) for row in pick_examples(dataset).itertuples()]
    yield Gallery(pictures, f"Synthetic images, {dataset.info.size} pixels a side: one for each finding.")


def _picture(dataset: Dataset, row: object) -> Picture:
    names = listed([plain(name) for name in dataset.findings.decode(row.labels)])  # type: ignore[attr-defined]
    return as_picture(dataset.image(row), f"Synthetic chest X-ray: {names}.", title=names)


def _real(dataset: Dataset) -> Iterator[Block]:
    splits = {split: dataset.of_split(split) for split in ("train", "val", "test")}
    rows = [[split, *_cells(part)] for split, part in splits.items() if len(part)]
    yield _counted("Images and patients of each split; no total, from which one could be told.", "split", rows)
    train = splits["train"]
    parts = _by_finding(dataset, train)
    images = {name: len(part) for name, part in parts.items()}
    hidden = withheld_findings(_patients(parts), images, len(train), NO_FINDING)
    yield _by("finding", "Training images with each finding.", parts, hidden)
    yield _by("view", "Training images by view.", _parts(train, "view", ("PA", "AP")))
    yield _by("sex", "Training images by sex.", _parts(train, "sex", ("F", "M")))
    bands = train.groupby(pd.cut(train["age"], _AGES, right=False), observed=True)
    yield _by("age", "Training images by age.", {_years(band): part for band, part in bands})
    yield Text(f"“{_HIDDEN}”: of fewer than {FEWEST_PATIENTS} patients, or such a number would follow from it.", "note")


def _parts(rows: pd.DataFrame, column: str, values: Sequence[str]) -> dict[str, pd.DataFrame]:
    """By the values that we know; any other is unknown, whatever text stands there."""
    known = rows[column].where(rows[column].isin(values), "")
    return {value: rows[known == value] for value in (*values, "")}


def _years(band: pd.Interval) -> str:
    return f"{band.left} to {band.right - 1} years" if band.right < _AGES[-1] else f"{band.left} years and more"


def _by_finding(dataset: Dataset, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    bits = {name: rows["labels"] & dataset.findings.bit(name) != 0 for name in dataset.findings.names}
    return {name: rows[has] for name, has in {**bits, NO_FINDING: rows["labels"] == 0}.items()}


def _patients(parts: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    return {name: part["patient_id"].nunique() for name, part in parts.items()}


def _by(what: str, caption: str, parts: Mapping[str, pd.DataFrame], hidden: frozenset[str] | None = None) -> Table:
    found = {name: part for name, part in parts.items() if len(part)}
    hidden = withheld(_patients(found)) if hidden is None else hidden
    rows = [[plain(name) or "unknown", *_cells(part, name in hidden)] for name, part in found.items()]
    return _counted(caption, what, rows)


def _cells(part: pd.DataFrame, is_hidden: bool = False) -> list[str]:
    patients = part["patient_id"].nunique()
    return [_HIDDEN, _HIDDEN] if is_hidden or patients < FEWEST_PATIENTS else [count(len(part)), count(patients)]


def _counted(caption: str, what: str, rows: list[list[str]]) -> Table:
    return Table(caption, [Column(what), Column("images", numeric=True), Column("patients", numeric=True)], rows)


def _training(run: RunView) -> Iterator[Block]:
    for stage in run.of_kind("train"):
        yield Heading(f"{stage.model}: stage “{stage.name}”")
        yield from curves(stage) if stage.receipts else [not_yet(stage)]


def _results(run: RunView) -> Iterator[Block]:
    for stage in run.of_kind("evaluate"):
        yield Heading(f"Stage “{stage.name}”")
        if not stage.is_done:
            yield not_yet(stage)
            continue
        metrics = read_metrics(stage)
        yield from (Text(line) for line in [*numbers(metrics), *_accuracies(metrics)])


def _accuracies(metrics: Metrics) -> Iterator[str]:
    for result in metrics.utility:
        found = [f"{one.classifier.accuracy.value:.2f} on {ARMS[one.arm]}" for one in result.arms if one.classifier]
        if found and result.test and result.test.num_patients >= FEWEST_PATIENTS:  # a fraction of few tells counts
            yield f"telling {plain(result.finding)} from {plain(result.negatives)}: accuracy {listed(found)}"


def _provenance(run: RunView) -> Iterator[Block]:
    about = public_run(run.provenance)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    known = {"code": f"git {about['git']['commit'] or 'unknown'}", "versions": versions, "seed": str(about["seed"])}
    yield FactList([(name, value) for name, value in known.items() if value])
    rows = [[stage.name, str(stage.facts["digest"])] for stage in run.stages if stage.facts and _is_public(stage)]
    yield Table("Equal digests mean equal content.", [Column("stage"), Column("sha256")], rows)


def _is_public(stage: StageView) -> bool:
    return bool(stage.facts and isinstance(stage.facts.get("digest"), str))
