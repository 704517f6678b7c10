"""How training went: curves of loss and learning rate, validation, and previews over checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr_core.errors import UserError
from cxr_core.report.blocks import Block, Chart, Charts, Gallery, Heading, Picture, PictureGrid, Section, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.picture import as_picture
from cxr_core.report.read import RunView, StageView, read_lines, read_object
from cxr_core.report.spell import count, several

MOST_POINTS = 1500
"""Values of a curve that are drawn; of more, every k-th."""

MOST_ROWS = 6
"""Checkpoints whose previews are shown; of more, as many spread evenly, always with the first and the last."""


_MODELS = {"vae": "Autoencoder (VAE)", "diffusion": "Diffusion model"}


def training_section(run: RunView) -> Section:
    """Each train stage: its curves, then its previews."""
    blocks: list[Block] = []
    for stage in run.of_kind("train"):
        blocks.append(Heading(f"{_MODELS.get(stage.model, stage.model)}: stage “{stage.name}”"))
        if not stage.is_done:
            blocks.append(not_yet(stage))
        if stage.receipts:
            blocks += _curves(stage)
            blocks += _previews(stage)
    return Section("training", "Training", blocks or [Text("This run trains nothing.", "absent")])


def _curves(stage: StageView) -> Iterator[Charts]:
    values = pd.DataFrame([line for path in stage.data("metrics") for line in read_lines(path)])
    if values.empty:
        return
    for name in ("step", "loss"):
        if name not in values:
            raise UserError(f"its lines lack {name!r}", where=str(next(stage.data("metrics"))), mend="run it again")
    charts, window = [], max(1, len(values) // 50)
    charts.append(_loss(stage.name, values, window))
    if "lr" in values:
        charts.append(_line(f"lr-{stage.name}", "learning rate", values["step"], values["lr"]))
    charts += _validation(stage)
    yield Charts(charts, _curve_caption(stage, values, window))


def _loss(name: str, values: pd.DataFrame, window: int) -> Chart:
    from cxr_core.report import figures

    smooth = values["loss"].rolling(window, center=True, min_periods=1).mean()
    kept = _thinned(len(values))
    first, last = smooth.iloc[0], smooth.iloc[-1]
    alt = f"Training loss of {name} over steps, smoothed: from {first:.4g} at the start to {last:.4g} at the end."
    raw = (values["step"].to_numpy()[kept], values["loss"].to_numpy()[kept])
    return figures.curve(f"loss-{name}", "training loss", raw, smooth.to_numpy()[kept], alt, log=_is_wide(smooth))


def _previews(stage: StageView) -> Iterator[Block]:
    """A table of small pictures over checkpoints, and the newest checkpoint's pictures as large as there is room."""
    folders = list(stage.data("preview"))
    if folders:
        previews = [_read_preview(folder) for folder in _spread(folders)]
        start, heads = _without_common_start(previews[-1].prompts)
        rows = [f"step {count(preview.step)}" for preview in previews]
        caption = _preview_caption(len(folders), len(previews)) + (f" Every prompt starts “{start}”." if start else "")
        yield PictureGrid("", heads, rows, [preview.pictures for preview in previews], caption)
        last = previews[-1]
        large = [replace(p, lines=(f"“{name}”",)) for p, name in zip(last.pictures, last.prompts, strict=True)]
        yield Gallery(large, f"The pictures of step {count(last.step)} again, large, each with its prompt.")


@dataclass(frozen=True)
class Preview:
    """The pictures of one checkpoint, a column of them for each prompt."""

    step: int
    prompts: tuple[str, ...]
    pictures: tuple[Picture, ...]


def _read_preview(folder: Path) -> Preview:
    about = read_object(folder / "preview.json")
    step, prompts = int(about["step"]), tuple(map(str, about["prompts"]))
    path = folder / "preview.png"
    sheet = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if sheet is None or not prompts or sheet.shape[1] % len(prompts):
        raise UserError("is no picture with a column for each prompt", where=str(path), mend="run its stage again")
    columns = [np.ascontiguousarray(column) for column in np.split(sheet, len(prompts), axis=1)]
    alts = [f"Preview at step {count(step)} of “{prompt}”." for prompt in prompts]
    return Preview(step, prompts, tuple(as_picture(column, alt) for column, alt in zip(columns, alts, strict=True)))


def _spread(folders: Sequence[Path]) -> list[Path]:
    places = np.linspace(0, len(folders) - 1, min(len(folders), MOST_ROWS))
    return [folders[round(place)] for place in places]


def _without_common_start(prompts: Sequence[str]) -> tuple[str, list[str]]:
    """The words that all prompts start with, and each prompt without them."""
    words = [prompt.split(" ") for prompt in prompts]
    shortest = min(map(len, words)) - 1 if len(words) > 1 else 0
    same = next((i for i in range(shortest) if len({line[i] for line in words}) > 1), shortest)
    return " ".join(words[0][:same]).rstrip(","), [" ".join(line[same:]) for line in words]


def _preview_caption(num: int, shown: int) -> str:
    some = f"{shown} of {num} checkpoints" if shown < num else several(num, "checkpoint")
    return (
        f"Previews at {some}: the same prompts (columns) and the same noise at every step, so only the model differs."
    )


def _line(key: str, title: str, steps: Any, values: Any, *, colour: str | None = None, marks: bool = False) -> Chart:
    from cxr_core.report import figures

    steps, values = np.asarray(steps), np.asarray(values, float)
    kept = _thinned(len(values))
    alt = f"{title} over steps: from {values[0]:.4g} to {values[-1]:.4g}, lowest {values.min():.4g}."
    return figures.curve(key, title, (steps[kept], values[kept]), None, alt, colour=colour or figures.REAL, marks=marks)


def _thinned(number: int) -> np.ndarray:
    """Indices of at most `MOST_POINTS` values: every k-th."""
    return np.arange(0, number, -(-number // MOST_POINTS))


def _is_wide(values: pd.Series) -> bool:
    """Whether a curve falls so far that only a logarithmic axis shows its end."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _validation(stage: StageView) -> list[Chart]:
    """The loss on held-out patients at each checkpoint, where it was measured."""
    from cxr_core.report import figures

    if not stage.is_done:
        return []
    points = read_object(stage.folder.path / "checkpoints.json").get("checkpoints", ())
    found = [(point["step"], point["validation_loss"]) for point in points if point["validation_loss"] is not None]
    if not found:
        return []
    steps, values = zip(*found, strict=True)
    return [_line(f"validation-{stage.name}", "validation loss", steps, values, colour=figures.HELD_OUT, marks=True)]


def _curve_caption(stage: StageView, values: pd.DataFrame, window: int) -> str:
    drawn = _thinned(len(values))
    thinning = "" if len(drawn) == len(values) else f" (one in {count(drawn[1] - drawn[0])} is drawn)"
    batch = stage.settings.get("batch_size")
    images = f", {several(batch, 'image')} a step" if batch else ""
    return (
        f"{several(len(values), 'step')}{images}. Loss: each step faint{thinning}; in full colour a running mean over "
        f"{several(window, 'step')}. Validation loss: at each checkpoint, on held-out patients."
    )
