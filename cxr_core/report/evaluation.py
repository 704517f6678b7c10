"""Real beside synthetic images, and the metrics of an evaluate stage as it wrote them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from cxr_core.evaluation import metrics as metrics_file
from cxr_core.evaluation.metrics import Grid, Metrics
from cxr_core.report.blocks import Block, Gallery, Heading, Picture, Section, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.picture import data_uri, read_picture
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several
from cxr_core.runs.door import BadFileError


def pictures_section(run: RunView) -> Section:
    """Real beside synthetic images, a picture a finding."""
    return Section("pictures", "Real beside synthetic", each_evaluation(run, _pictures))


def each_evaluation(
    run: RunView,
    show: Callable[[StageView, Metrics], Iterable[Block]],
    nothing: str = "This run evaluates nothing.",
) -> list[Block]:
    """What `show` makes of every finished evaluate stage; the others are not yet; `nothing` where there is none.

    Of several stages, each has a heading.
    """
    blocks: list[Block] = []
    stages = run.of_kind("evaluate")
    for stage in stages:
        shown = list(show(stage, read_metrics(stage))) if stage.is_done else [not_yet(stage)]
        heading = [Heading(f"Stage “{stage.name}”")] if len(stages) > 1 and shown and stage.is_done else []
        blocks += [*heading, *shown]
    return blocks or [Text(nothing, "absent")]


def read_metrics(stage: StageView) -> Metrics:
    """metrics.json of a finished evaluate stage. Raises BadFileError naming the file if it is missing or malformed."""
    folder = stage.folder.path
    try:
        return metrics_file.read_metrics(folder)
    except FileNotFoundError as error:
        raise BadFileError("missing, of a finished stage", folder / metrics_file.FILE, _AGAIN) from error


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
    name = plain(grid.finding)
    alt = f"{grid.num_columns} real chest X-rays with {name} above {grid.num_columns} synthetic ones."
    return png_of(folder, str(grid.path), alt, title=f"{name}, n = {grid.num_columns} + {grid.num_columns}")


def png_of(folder: Path, name: str, alt: str, *, title: str = "") -> Picture:
    """A PNG that metrics.json lists. Raises UserError as `pixels_of`."""
    pixels, png = read_picture(folder, name)
    return Picture(data_uri(png), pixels.shape[1], pixels.shape[0], alt, title=title)


def pixels_of(folder: Path, name: str) -> np.ndarray:
    """Of a PNG that metrics.json lists, as it is. Raises UserError as `read_picture`."""
    return read_picture(folder, name)[0]
