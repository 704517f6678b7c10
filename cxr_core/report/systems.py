"""Systems side by side: all evaluations against the same real images, in one table and one page of pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_core.data.sheet import cells_of
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import Grid, JudgedFinding, Metrics
from cxr_core.evaluation.position.results import PositionFinding
from cxr_core.report.blocks import Block, Column, Heading, Picture, PictureGrid, Section, Table, Text
from cxr_core.report.diversity import alike_cell, share_cell
from cxr_core.report.evaluation import pixels_of, read_metrics
from cxr_core.report.fidelity import interval_words
from cxr_core.report.picture import as_picture
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain

_SHOWN = 2
"""Images of each system and finding on the page of pictures."""
_SHARES = ("precision", "recall", "density", "coverage")
_NONE = "–"


@dataclass(frozen=True)
class _System:
    """A finished evaluation of a Dataset, which gives it its name."""

    stage: StageView
    metrics: Metrics

    @property
    def name(self) -> str:
        return Path(self.stage.settings["inputs"]["synthetic"]).name


def systems_section(run: RunView) -> Section:
    """Evaluations of other synthetic images against the same real ones, where there are several."""
    blocks: list[Block] = []
    for systems in _groups(run):
        blocks += _side_by_side(systems)
    absent = Text("No two stages of this run evaluate against the same real images.", "absent")
    return Section("systems", "Systems side by side", blocks or [absent])


def _groups(run: RunView) -> list[list[_System]]:
    """Finished evaluations by the real Dataset that they took, where they look at several synthetic ones.

    A sweep has a section of its own.
    """
    groups: dict[str, list[_System]] = {}
    for stage in run.of_kind("evaluate"):
        if stage.is_done and not stage.settings.get("sweep"):
            metrics = read_metrics(stage)
            groups.setdefault(metrics.real.digest, []).append(_System(stage, metrics))
    return [systems for systems in groups.values() if len({one.metrics.synthetic.digest for one in systems}) > 1]


def _side_by_side(systems: Sequence[_System]) -> list[Block]:
    drawn = [f"“{system.name}”: {listed(list(system.metrics.synthetic.drawn_by) or ['unknown'])}" for system in systems]
    blocks: list[Block] = [
        Text(f"{count(len(systems))} sets of synthetic images, measured against the same real images. How drawn: "
             f"{'; '.join(drawn)}."),
        *(Text(words) for words in _unlike(systems)),
        _numbers(systems),
    ]  # fmt: skip
    if rows := _by_finding(systems):
        columns = [Column("finding"), Column("asked"), *(Column(name, numeric=True) for name in _heads(systems))]
        caption = "Is the finding there, and where it was asked for? With 95 % intervals."
        blocks.append(Table(caption, columns, rows, frozenset(), _FINDING_NOTES))
    if grid := _pictures(systems):
        blocks += [Heading("Pictures"), grid]
    return blocks


_FINDING_NOTES = (
    "Seen: AUROC of the judge, images asked for with the finding against those asked for without, all views together; "
    "0.50 is a generator that does not show it. Of real images: held-out patients with it against those without.",
    "In its place: share in which the localiser found it in the region asked for; of real images: in its box’s cell.",
    "Added: AUROC of a classifier with synthetic images beside real ones, minus the same without (utility).",
)


def _unlike(systems: Sequence[_System]) -> list[str]:
    """What makes the systems less comparable, a sentence each."""
    found = []
    if len(numbers := {system.metrics.synthetic.num_images for system in systems}) > 1:
        found.append(f"The sets have different sizes ({listed([count(n) for n in sorted(numbers)])} images), and FID, "
                     "precision, recall and coverage change with n: compare KID, or draw as many of each.")  # fmt: skip
    if len({one.metrics.fidelity.extractor.digest for one in systems if one.metrics.fidelity}) > 1:
        found.append("Different networks looked at the sets: their distances do not compare.")
    return found


def _heads(systems: Sequence[_System]) -> list[str]:
    return ["real", *(system.name for system in systems)]


_Cell = Callable[[Metrics], str]


def _numbers(systems: Sequence[_System]) -> Table:
    measures = {
        "images": lambda metrics: count(metrics.synthetic.num_images),
        "FID": lambda metrics: _distance(metrics, "fid", ".3g"),
        "KID": lambda metrics: _distance(metrics, "kid", ".3f"),
        **{name: _share(name) for name in _SHARES},
        "MS-SSIM": lambda metrics: alike_cell(metrics.diversity.synthetic) if metrics.diversity else _NONE,
        "copies": _copies,
    }
    real = _floor(systems[0])
    rows = [
        [name, floor, *(measure(system.metrics) for system in systems)]
        for (name, measure), floor in zip(measures.items(), real, strict=True)
    ]
    notes = (
        "FID and KID to all held-out patients: less is nearer. Precision, recall, density, coverage: more is better. "
        "MS-SSIM within a prompt: far above that of real images, the system repeats itself.",
        "Copies: share nearer to a training image than the bound that held-out patients set (pixels, aligned).",
        "Real is the floor: half of the held-out patients beside the other half, so at a smaller n than the systems; "
        "each stage’s own section compares at equal n.",
    )
    heads = [Column("measure"), *(Column(name, numeric=True) for name in _heads(systems))]
    return Table("All systems against the same held-out patients.", heads, rows, notes=notes)


def _distance(metrics: Metrics, name: str, form: str) -> str:
    found = getattr(metrics.fidelity.headline, name) if metrics.fidelity else None
    return interval_words(found, form) if found else _NONE


def _share(name: str) -> _Cell:
    return lambda metrics: share_cell(getattr(metrics.diversity.headline, name)) if metrics.diversity else _NONE


def _copies(metrics: Metrics) -> str:
    share = metrics.memorisation.pixels.share_above if metrics.memorisation else None
    return _NONE if share is None else f"{100 * share.value:.2g} % ({100 * share.low:.2g} to {100 * share.high:.2g})"


def _floor(first: _System) -> list[str]:
    """Of real images, a cell for each measure."""
    fidelity, diversity = first.metrics.fidelity, first.metrics.diversity
    cells = [_NONE] * 3
    if fidelity:
        numbers = ((fidelity.floor.fid, ".3g"), (fidelity.floor.kid, ".3f"))
        distances = [interval_words(number, form) if number else _NONE for number, form in numbers]
        cells = [count(fidelity.floor.a.num_images), *distances]
    cells += [share_cell(getattr(diversity.floor, name)) if diversity else _NONE for name in _SHARES]
    return [*cells, alike_cell(diversity.real) if diversity else _NONE, _NONE]


def _by_finding(systems: Sequence[_System]) -> list[list[str]]:
    """Rows of what was found of each finding: seen, in its place, added."""
    rows = []
    for words, found in (("seen", _seen), ("in its place", _placed), ("added", _added)):
        by_system = [found(system.metrics) for system in systems]
        names = dict.fromkeys(name for cells in by_system for name in cells)
        for name in names:
            real = next(cells[name][0] for cells in by_system if name in cells)
            rows.append([plain(name), words, real, *(cells.get(name, ("", _NONE))[1] for cells in by_system)])
    return sorted(rows, key=lambda row: row[0])


_Pairs = Mapping[str, tuple[str, str]]
"""Finding -> what real images have, what the system's have."""


def _seen(metrics: Metrics) -> _Pairs:
    judged = metrics.faithfulness.findings if metrics.faithfulness else ()
    return {each.finding: _auroc(each) for each in judged if each.synthetic}


def _auroc(each: JudgedFinding) -> tuple[str, str]:
    trial, asked = each.trial[0], each.synthetic[0]
    return _told(trial.auroc), "refused" if asked.refused else _told(asked.auroc)


def _placed(metrics: Metrics) -> _Pairs:
    found = metrics.position.findings if metrics.position else ()
    return {each.finding: _hit_rate(each) for each in found if each.asked}


def _hit_rate(each: PositionFinding) -> tuple[str, str]:
    rates = ["refused" if asked.refused else _told(asked.hit_rate) for asked in each.asked]
    return _told(each.trial.hit_rate), "; ".join(rates)


def _added(metrics: Metrics) -> _Pairs:
    values = {each.finding: each.value_of_synthetic for each in reversed(metrics.utility)}
    return {name: (_NONE, _told(value.auroc if value else None)) for name, value in values.items()}


def _told(number: Interval | None) -> str:
    return interval_words(number, ".2f") if number else _NONE


def _pictures(systems: Sequence[_System]) -> PictureGrid | None:
    """A row of pictures for real images and for each system, of findings that all systems have pictures of."""
    drawn = [{grid.finding: grid for grid in system.metrics.grids if grid.path} for system in systems]
    names = [name for name in drawn[0] if all(name in grids for grids in drawn)]
    if not names:
        return None
    rows = [[_strip(systems[0], drawn[0][name], 0) for name in names]]
    rows += [[_strip(system, grids[name], 1) for name in names] for system, grids in zip(systems, drawn, strict=True)]
    caption = "Drawn by chance, not chosen; the same findings asked of every system."
    return PictureGrid("images of", [plain(name) for name in names], _heads(systems), rows, caption)


def _strip(system: _System, grid: Grid, row: int) -> Picture:
    """The first images of the upper row, the real ones, or of the lower."""
    sheet = pixels_of(system.stage.folder.path, str(grid.path))
    whose = system.name if row else "real"
    cells = cells_of(sheet, (2, grid.num_columns), row, min(_SHOWN, grid.num_columns))
    return as_picture(np.ascontiguousarray(cells), f"Chest X-rays with {plain(grid.finding)}: {whose}.")
