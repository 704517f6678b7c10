"""How training went: curves of loss and learning rate, validation, and previews over checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from pydantic import ConfigDict
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.report.blocks import Block, Chart, Charts, Gallery, Heading, Picture, PictureGrid, Section, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.picture import as_picture, read_picture
from cxr_core.report.read import RunView, StageView, read_lines, read_object
from cxr_core.report.sampling import sampling_chart
from cxr_core.report.spell import count, percent, several
from cxr_core.runs.records import Count
from cxr_core.training.overfit import RULE, overfit
from cxr_core.training.rendezvous import preflights, words_of

MOST_POINTS = 1500
"""Values of a curve that are drawn; of more, every k-th."""

MOST_ROWS = 6
"""Checkpoints whose previews are shown; of more, as many spread evenly, always with the first and the last."""


_MODELS = {
    "vae": "Autoencoder (VAE)",
    "text_encoder": "Text encoder",
    "diffusion": "Diffusion model",
    "classifier": "Classifier (judge)",
    "pggan": "PG-GAN",
    "localiser": "Localiser (judge of positions)",
}


def training_section(run: RunView) -> Section:
    """Each train stage: its curves, then its previews."""
    blocks: list[Block] = []
    for stage in run.of_kind("train"):
        blocks.append(Heading(f"{_MODELS.get(stage.model, stage.model)}: stage “{stage.name}”"))
        if not stage.is_done:
            blocks.append(not_yet(stage))
        blocks += [Text(f"Trained on {words_of(about)}.") for about in _distinct(preflights(stage.folder.path))]
        blocks += _starts_from(stage)
        blocks += sampling_chart(stage)
        if stage.receipts:
            blocks += curves(stage)
            blocks += _previews(stage)
    return Section("training", "Training", blocks or [Text("This run trains nothing.", "absent")])


def _starts_from(stage: StageView) -> Iterator[Text]:
    """Which weights a training went on from, where its plan says what these predict."""
    path = stage.folder.path / "plan" / "base.json"
    base = read_object(path) if path.is_file() else {}
    if "prediction" in base:
        yield Text(f"Started from weights of sha256 {base['weights_sha256'][:16]}; predicts {base['prediction']}.")


def _distinct(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last of each kind of group: speeds differ from one start to the next."""
    kinds = {tuple(about.get(key) for key in ("ranks", "nodes", "zero", "transport")): about for about in groups}
    return list(kinds.values())


class _Step(TypedDict, total=False):
    """A line of the metrics; whatever else stands there is not drawn."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    step: Count
    loss: float
    validation_loss: float | None
    validation_auroc: float | None
    generator_loss: float | None
    image_size: Count | None
    fade: float | None
    lr: float | None
    grad_norm: float | None


def curves(stage: StageView) -> Iterator[Block]:
    """Loss, learning rate and validation over steps."""
    values = pd.DataFrame([line for path in stage.data("metrics") for line in read_lines(path, _Step)])
    if values.empty:
        return
    for name in ("step", "loss"):
        if name not in values:
            raise UserError(f"its lines lack {name!r}", where=str(next(stage.data("metrics"))), hint="run it again")
    window = max(_LEAST_WINDOW, len(values) // 50)
    charts = [_loss(stage.name, values, window)]
    for key, title in _OTHERS.items():
        if key in values and values[key].notna().any():
            known = values[values[key].notna()]
            charts.append(_line(f"{key}-{stage.name}", title, known["step"], known[key], held_out=key in _HELD_OUT))
    yield Charts(charts, _curve_caption(stage, values, window))
    if stage.model == "diffusion" and "validation_loss" in values:
        yield from _alarm(values[values["validation_loss"].notna()])


def _alarm(checkpoints: pd.DataFrame) -> Iterator[Text]:
    found = overfit(list(zip(checkpoints["step"].tolist(), checkpoints["validation_loss"].tolist(), strict=True)))
    if found:
        yield Text(
            f"Overfitting: the loss on held-out patients is {RULE}, which it had at step {count(found.best_step)}; now "
            f"it is {percent(found.rise, 1)} above. Training on fits these training images, not others: generate from "
            "the checkpoint of that step (keep.every keeps older ones), or train for fewer steps."
        )


_LEAST_WINDOW = 5
"""Steps over which the loss is averaged at least; in long training a fiftieth of it."""

_HELD_OUT = ("validation_loss", "validation_auroc")

_OTHERS = {
    "validation_loss": "validation loss",
    "validation_auroc": "validation AUROC, mean over findings",
    "generator_loss": "generator's loss",
    "image_size": "pixels a side",
    "fade": "share of the newest layers",
    "lr": "learning rate",
    "grad_norm": "gradient norm before clipping",
}
"""What is drawn besides the loss, where metrics have it: column -> title."""


def _loss(name: str, values: pd.DataFrame, window: int) -> Chart:
    from cxr_core.report import figures

    smooth = values["loss"].rolling(window, center=True, min_periods=1).mean()
    kept = _thinned(len(values))
    first, last = smooth.iloc[0], smooth.iloc[-1]
    alt = f"Training loss of {name} over steps, smoothed: from {first:.4g} at the start to {last:.4g} at the end."
    raw = (values["step"].to_numpy()[kept], values["loss"].to_numpy()[kept])
    return figures.curve(f"loss-{name}", "training loss", raw, smooth.to_numpy()[kept], alt, log=_is_wide(smooth))


def _previews(stage: StageView) -> Iterator[Block]:
    """A table of pictures over checkpoints; where it makes them small, those of the newest checkpoint again, large."""
    folders = list(stage.data("preview"))
    if folders:
        previews = [read_preview(stage.folder.path, folder) for folder in _spread(folders)]
        start, heads = _without_common_start(previews[-1].prompts)
        rows = [f"step {count(preview.step)}" for preview in previews]
        caption = _preview_caption(stage, len(folders), len(previews))
        caption += f" Every prompt starts “{start}”." if start else ""
        yield PictureGrid("", heads, rows, [preview.pictures for preview in previews], caption)
        last = previews[-1]
        if len(last.prompts) > _LARGE_IN_TABLE:
            large = [replace(p, lines=(name,)) for p, name in zip(last.pictures, last.prompts, strict=True)]
            yield Gallery(large, f"The pictures of step {count(last.step)} again, large.")


_LARGE_IN_TABLE = 4
"""Columns of a table of pictures that are as wide there as in a gallery."""


@dataclass(frozen=True)
class PreviewPictures:
    """The pictures of one checkpoint, a column of them for each prompt (of a VAE: for each image id)."""

    step: int
    prompts: tuple[str, ...]
    pictures: tuple[Picture, ...]


def read_preview(stage: Path, folder: Path) -> PreviewPictures:
    about = read_object(folder / "preview.json")
    try:
        step, prompts = int(about["step"]), tuple(map(str, about["prompts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"lacks step or prompts ({error})", where=str(folder / "preview.json"), hint="run its stage again"
        ) from error
    path = folder / "preview.png"
    sheet = read_picture(stage, path.relative_to(stage).as_posix())[0]
    sheet = sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_BGR2GRAY)
    if not prompts or sheet.shape[1] % len(prompts):
        raise UserError("is no picture with a column for each prompt", where=str(path), hint="run its stage again")
    columns = [np.ascontiguousarray(column) for column in np.split(sheet, len(prompts), axis=1)]
    alts = [f"Preview at step {count(step)} of “{prompt}”." for prompt in prompts]
    return PreviewPictures(
        step, prompts, tuple(as_picture(column, alt) for column, alt in zip(columns, alts, strict=True))
    )


def _spread(folders: Sequence[Path]) -> list[Path]:
    places = np.linspace(0, len(folders) - 1, min(len(folders), MOST_ROWS))
    return [folders[round(place)] for place in places]


def _without_common_start(prompts: Sequence[str]) -> tuple[str, list[str]]:
    """The words that all prompts start with, and each prompt without them."""
    words = [prompt.split(" ") for prompt in prompts]
    shortest = min(map(len, words)) - 1 if len(words) > 1 else 0
    same = next((i for i in range(shortest) if len({line[i] for line in words}) > 1), shortest)
    return " ".join(words[0][:same]).rstrip(","), [" ".join(line[same:]) for line in words]


def _preview_caption(stage: StageView, num: int, shown: int) -> str:
    some = f"{shown} of {num} checkpoints" if shown < num else several(num, "checkpoint")
    if stage.model == "vae":
        return f"Reconstructions at {some}: each image (columns, by image id) above what the autoencoder makes of it."
    if stage.model == "pggan":
        return f"Previews at {some}: the same latents (columns) at every step, drawn at its scale and shown enlarged."
    return (
        f"Previews at {some}: the same prompts (columns) and the same noise at every step, so only the model differs."
    )


def _line(key: str, title: str, steps: pd.Series, values: pd.Series, *, held_out: bool) -> Chart:
    from cxr_core.report import figures

    kept = _thinned(len(values))
    first, last = values.iloc[0], values.iloc[-1]
    alt = f"{title} over steps: from {first:.4g} to {last:.4g}, lowest {values.min():.4g}, highest {values.max():.4g}."
    drawn = (steps.to_numpy()[kept], values.to_numpy()[kept])
    colour = figures.HELD_OUT if held_out else figures.REAL
    return figures.curve(key, title, drawn, None, alt, colour=colour, marks=held_out)


def _thinned(number: int) -> np.ndarray:
    """Indices of at most `MOST_POINTS` values: every k-th."""
    return np.arange(0, number, -(-number // MOST_POINTS))


def _is_wide(values: pd.Series) -> bool:
    """Whether a curve falls so far that only a logarithmic axis shows its end."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _curve_caption(stage: StageView, values: pd.DataFrame, window: int) -> str:
    drawn = _thinned(len(values))
    thinning = "" if len(drawn) == len(values) else f" (one in {count(drawn[1] - drawn[0])} is drawn)"
    batch = stage.settings.get("batch_size")
    reads = stage.model == "text_encoder"
    examples = f", {several(batch, 'text' if reads else 'image')} a step" if batch else ""
    if stage.model == "pggan":
        return (
            f"{several(len(values), 'step')}. Loss: the discriminator's, each step faint{thinning}; in full colour a "
            f"running mean over {several(window, 'step')}. It tells nothing of how good images are: see fidelity."
        )
    held_out = "other texts" if reads else "images of held-out patients"
    return (
        f"{several(len(values), 'step')}{examples}. Loss: each step faint{thinning}; in full colour a running mean "
        f"over {several(window, 'step')}. Validation is measured at checkpoints, on {held_out}."
    )
