"""What evaluation found: real beside synthetic images, and the utility table beside the study's."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from pydantic import ValidationError

from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import (
    FILE,
    ArmResult,
    Grid,
    Interval,
    Metrics,
    Published,
    Scores,
    TestSet,
    UtilityResult,
)
from cxr_core.report.blocks import (
    Block,
    Chart,
    Charts,
    Citation,
    Column,
    Details,
    Gallery,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)
from cxr_core.report.datasets import not_yet
from cxr_core.report.picture import data_uri
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several

STUDY = Citation("Malik and Humair (2023), arXiv 2305.18927", "https://arxiv.org/abs/2305.18927")

ARMS = {"real": "real alone", "mixed": "half real, half synthetic", "half": "the same half real alone"}


def pictures_section(run: RunView) -> Section:
    """Real beside synthetic images, a picture a finding."""
    blocks: list[Block] = []
    for stage in run.of_kind("evaluate"):
        blocks += _pictures(stage, read_metrics(stage)) if stage.is_done else [not_yet(stage)]
    return Section("pictures", "Real beside synthetic", blocks or [Text("This run evaluates nothing.", "absent")])


def utility_section(run: RunView) -> Section:
    """What synthetic images are worth as training images: one table an experiment."""
    blocks: list[Block] = []
    for stage in run.of_kind("evaluate"):
        blocks += _utility(stage, read_metrics(stage)) if stage.is_done else [not_yet(stage)]
    return Section("utility", "Utility", blocks or [Text("This run evaluates nothing.", "absent")])


def read_metrics(stage: StageView) -> Metrics:
    """metrics.json of a finished evaluate stage. Raises UserError naming the file if it is missing or malformed."""
    path = stage.folder.path / FILE
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"not the metrics of an evaluate stage ({error})", where=str(path), mend=_AGAIN) from error


_AGAIN = "evaluate again: remove this stage's folder and run"


def _pictures(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    shown = [grid for grid in metrics.grids if grid.path is not None]
    absent = [plain(grid.finding) for grid in metrics.grids if grid.path is None]
    if shown:
        caption = (
            "Upper row: real images. Lower row: synthetic images asked for with the same finding. Drawn by "
            f"chance, not chosen, from {several(metrics.real.num_images, 'real image')} of {metrics.real.size} pixels "
            f"a side and {count(metrics.synthetic.num_images)} synthetic ones of {metrics.synthetic.size}."
        )
        yield Gallery([_grid_picture(stage.folder.path, grid) for grid in shown], caption, wide=True)
    if absent:
        yield Text(f"No picture for {listed(absent)}: there were no such images on both sides.", "absent")
    if not metrics.grids:
        yield Text(f"Stage “{stage.name}” was asked for no pictures.", "absent")


def _grid_picture(folder: Path, grid: Grid) -> Picture:
    path = folder / str(grid.path)
    png = path.read_bytes() if path.is_file() else b""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if pixels is None:
        raise UserError("is no picture, but metrics.json lists it", where=str(path), mend=_AGAIN)
    name = plain(grid.finding)
    alt = f"{grid.num_columns} real chest X-rays with {name} above {grid.num_columns} synthetic ones."
    title = f"{name}, n = {grid.num_columns} + {grid.num_columns}"
    return Picture(data_uri(png), pixels.shape[1], pixels.shape[0], alt, title=title)


def _utility(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    if not metrics.utility:
        yield Text(f"Stage “{stage.name}” was asked for no utility experiment.", "absent")
        return
    yield Text(
        "Can a classifier learn a finding from synthetic images? One is trained on real images, one on half real and "
        "half synthetic images, and one on that half of real images alone, for the same number of optimiser steps: the "
        "half alone is shown more often instead. All are judged on the same real images of patients that no training "
        "saw."
    )
    yield Text(f"The study’s rows stand beside ours as published. {metrics.published_caveat}", "note", STUDY)
    for i, result in enumerate(metrics.utility):
        yield Heading(f"{plain(result.finding)} from {plain(result.negatives)}, n = {count(result.num_images)}")
        yield from _experiment(f"utility-{stage.name}-{i}", result, metrics)


def _experiment(key: str, result: UtilityResult, metrics: Metrics) -> Iterator[Block]:
    if result.not_run is not None:
        yield Text(f"Not run: {result.not_run}.", "absent")
        return
    if result.test is not None:
        yield Text(_setting(result, result.test))
    if any(arm.classifier for arm in result.arms):
        yield Charts(
            [_chart(key, result, metrics)],
            "Accuracy with its 95 % interval. Open circles: as published, of one run, without an interval.",
        )
    yield _table(result, metrics)
    if result.value_of_synthetic is not None:
        yield Text(_worth(result, result.value_of_synthetic))
    if any(arm.seeds for arm in result.arms):
        yield Details("Each training seed by itself", [_seeds(result)])


def _setting(result: UtilityResult, test: TestSet) -> str:
    views = "; ".join(
        f"{view or 'unknown'} {num['with']} with, {num['without']} without" for view, num in test.views.items()
    )
    rule = "alone or among others" if result.rule == "any" else "and nothing else"
    augmented = "flips and zoom" if result.augment == "study" else "none"
    return (
        f"Judged on {several(test.num_images, 'real image')} of {several(test.num_patients, 'patient')}, half of them "
        f"with {plain(result.finding)} ({rule}; by view: {views}). The classifier saw {result.image_size} "
        f"pixels a side for the steps of {several(result.epochs, 'epoch')} over n images; "
        f"augmentation of training images: {augmented}."
    )


_HEADS = ("real images", "their patients", "synthetic images", "accuracy", "AUROC")


def _table(result: UtilityResult, metrics: Metrics) -> Table:
    columns = [Column("trained on"), *(Column(name, numeric=True) for name in _HEADS)]
    ours = [row for arm in result.arms for row in _arm_rows(arm)]
    published = [
        [_study(row), count(row.num_real), "–", count(row.num_synthetic), f"{row.accuracy:.2f}", "–"]
        for row in metrics.published
    ]
    strong = frozenset(i for i, row in enumerate(ours) if row[0] != _VIEW_ONLY)
    notes = [f"{ARMS[arm.arm].capitalize()}, not run: {arm.not_run}." for arm in result.arms if arm.not_run]
    notes += [*_warnings(result), _difference(result, metrics.published)]
    notes.append(
        "In brackets: 95 % interval by a bootstrap over training seeds and test patients. “The view alone”: the "
        "finding guessed from the projection (PA or AP) alone. Chance is 0.50: half of the test images have it."
    )
    what = f"{plain(result.finding)} from {plain(result.negatives)}"
    caption = f"Telling {what}, by what the classifier was trained on, with the study’s rows below."
    return Table(caption, columns, [*ours, *published], strong, notes)


_VIEW_ONLY = "the view alone"


def _arm_rows(arm: ArmResult) -> Iterator[list[str]]:
    """The classifier's row and, below it, what the view alone would give."""
    row = [ARMS[arm.arm], count(arm.num_real), count(arm.num_real_patients), count(arm.num_synthetic)]
    yield [*row, *_cells(arm.classifier)] if arm.classifier else [*row, "not run", "–"]
    if arm.view_only:
        yield [_VIEW_ONLY, "", "", "", *_cells(arm.view_only)]


def _cells(scores: Scores) -> list[str]:
    return [_interval(scores.accuracy), _interval(scores.auroc)]


def _study(row: Published) -> str:
    return f"study, {plain(row.finding)}: {ARMS[row.arm]}"


def _interval(number: Interval) -> str:
    return f"{number.value:.2f} ({number.low:.2f}–{number.high:.2f})"


def _warnings(result: UtilityResult) -> Iterator[str]:
    """Arms whose classifier is not shown to know more than the view."""
    for arm in result.arms:
        if arm.classifier and arm.view_only and arm.classifier.auroc.low <= arm.view_only.auroc.value:
            yield (
                f"{ARMS[arm.arm].capitalize()}: the interval of its AUROC reaches down to that of the view alone, so "
                "it is not shown to know more than the view."
            )


def _difference(result: UtilityResult, published: tuple[Published, ...]) -> str:
    """Why the study's rows stand beside ours and not against them."""
    ours = result.test.num_images if result.test else 0
    findings = {row.finding for row in published}
    reasons = ["other images and another split"]
    if findings != {result.finding}:
        reasons.append(f"another finding ({listed(sorted(findings))})")
    if {row.num_real + row.num_synthetic for row in published} != {result.num_images}:
        reasons.append("another number of training images")
    if ours and {row.num_test for row in published} != {ours}:
        reasons.append("another number of test images")
    return f"The study’s rows are not comparable with ours: {listed(reasons)}."


def _worth(result: UtilityResult, change: Scores) -> str:
    added = count(result.num_images // 2)
    clear = change.auroc.low > 0 or change.auroc.high < 0
    verdict = "The latter interval excludes 0." if clear else "The latter interval includes 0: no effect is shown."
    return (
        f"What the synthetic images added: {added} of them beside {added} real ones changed accuracy by "
        f"{_change(change.accuracy)} and AUROC by {_change(change.auroc)}. {verdict}"
    )


def _change(number: Interval) -> str:
    return f"{number.value:+.3f} ({number.low:+.3f} to {number.high:+.3f})".replace("-", "−")


def _chart(key: str, result: UtilityResult, metrics: Metrics) -> Chart:
    from cxr_core.report import figures

    colours: Mapping[str, str] = {"real": figures.REAL, "mixed": figures.SYNTHETIC, "half": figures.REAL}
    rows = []
    for arm in result.arms:
        if arm.classifier:
            rows.append((ARMS[arm.arm], arm.classifier.accuracy, colours[arm.arm]))
        if arm.view_only:
            rows.append((_VIEW_ONLY, arm.view_only.accuracy, figures.MUTED))
    for row in metrics.published:
        number = Interval(value=row.accuracy, low=row.accuracy, high=row.accuracy)
        rows.append((_study(row), number, colours[row.arm]))
    alt = "Accuracy. " + "; ".join(f"{name}: {_interval(number)}" for name, number, _ in rows) + "."
    points = [(name, number.value, number.low, number.high, colour) for name, number, colour in rows]
    return figures.intervals(key, points, [("chance", 0.5)], alt, axis="accuracy on real test images")


def _seeds(result: UtilityResult) -> Table:
    heads = ("seed", "accuracy", "AUROC", "final training loss")
    columns = [Column("trained on"), *(Column(name, numeric=True) for name in heads)]
    rows = [
        [ARMS[arm.arm], str(one.seed), _interval(one.accuracy), _interval(one.auroc), f"{one.final_loss:.3g}"]
        for arm in result.arms
        for one in arm.seeds
    ]
    return Table("One classifier a row; intervals over test patients.", columns, rows)
