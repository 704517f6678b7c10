"""The series of a generate stage: each one request, with the model and the sampler that it is drawn with."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from cxr_core.data.dataset import Dataset
from cxr_core.data.lists import possible_ids
from cxr_core.data.positions.split import BoxedSplit, together
from cxr_core.data.pseudonyms import unnamed, with_names
from cxr_core.errors import UserError
from cxr_core.generation.settings import (
    FromBank,
    GenerateStage,
    Guidance,
    NamedRequest,
    Request,
    Steps,
)
from cxr_core.models.solver_options import Noise, Scheduler
from cxr_core.models.training_data import TrainingData
from cxr_core.runs.roles import place
from cxr_core.settings import Settings


class Series(Settings):
    """One request, and what its images are drawn with."""

    name: str
    """That the index gives its images; "" where the stage has one series only."""
    request: Request
    """Which images."""
    role: str
    """Of the model among the stage's inputs: `model`, `model.1` ..."""
    checkpoint: int | None = None
    """Step of the model's checkpoint; None: its last."""
    scheduler: Scheduler
    """The sampler."""
    steps: Steps
    """Denoising steps an image."""
    guidance: Guidance
    """Classifier-free guidance scale."""

    @property
    def sampler(self) -> dict[str, str | int | float]:
        """What the sampler is called with, and every image records."""
        return {name: getattr(self, name) for name in ("scheduler", "steps", "guidance")}


class MadeSeries(Series):
    """A series with its model, as the plan and the Dataset record it."""

    model: str
    """sha256 of the weights."""
    kind: Literal["stable-diffusion", "pggan"] = "stable-diffusion"
    """What the model is. A PG-GAN hears no words: labels say what was asked for, not what is drawn."""
    prediction: str | None = None
    """What a Stable Diffusion's denoiser predicts: epsilon, v or sample. None: not told by who made the Dataset."""
    bank: str | None = None
    """Digest of the latent bank that a PG-GAN draws from by labels. None: from random latents."""
    from_bank: FromBank = "gaussian"
    """How it draws from it."""
    noise: Noise = "mt19937"
    """What makes noise of an image's seed. A record of an older version names none: it was mt19937."""
    solver: dict[str, Any] | None = None
    """All arguments of diffusers' scheduler. Of an older version there are none: they came from the model's config."""
    training_data: TrainingData | None = None
    """What the model learnt from, as far as it says so."""
    also_learnt_from: BoxedSplit | None = None
    """Moved test patients from whom the latent bank or the gate learnt."""
    num_images: int
    """Images of the series."""

    def unnamed(self) -> "MadeSeries":
        """As dataset.json holds it: without the names of patients."""
        learnt, also = self.training_data, self.also_learnt_from
        changed = {
            "training_data": learnt and learnt.renamed(unnamed),
            "also_learnt_from": also and also.renamed(unnamed),
        }
        return self.model_copy(update=changed)

    @property
    def boxed_splits(self) -> tuple[BoxedSplit, ...]:
        """Whose moved test patients are behind the images."""
        also = (self.also_learnt_from,) if self.also_learnt_from else ()
        return (*(self.training_data.boxed_splits if self.training_data else ()), *also)

    @property
    def sampler(self) -> dict[str, str | int | float]:
        """As of every series, with its noise; a PG-GAN draws without a sampler."""
        if self.kind == "pggan":
            latents = {"bank": self.bank, "from_bank": self.from_bank} if self.bank else {}
            return {**latents, "noise": self.noise}
        return {**super().sampler, "noise": self.noise}

    @property
    def words(self) -> str:
        """How it was drawn, for people."""
        step = "" if self.checkpoint is None else f"checkpoint {self.checkpoint}, "
        if self.kind == "pggan" and self.bank:
            return f"{step}PG-GAN, from latents of real images with these labels ({self.from_bank})"
        if self.kind == "pggan":
            return f"{step}PG-GAN, from random latents: labels say what was asked for, not what is drawn"
        predicts = f", predicts {self.prediction}" if self.prediction else ""
        return f"{step}{self.scheduler}, {self.steps} steps, guidance {self.guidance:g}{predicts}"


def place_of(settings: GenerateStage, model: str | None) -> str:
    """Where a model stands among the stage's inputs; None: the first."""
    return place("model", settings.models.index(model) if model else 0)


def all_series(settings: GenerateStage, checkpoints: Callable[[str], Sequence[int]]) -> list[Series]:
    """In the order of the config. `checkpoints` gives the steps that a model keeps, by its role."""
    if settings.request is None:
        return [_own(settings, entry) for entry in settings.requests]
    plain = Series(
        name="",
        request=settings.request,
        role="model",
        checkpoint=None,
        scheduler=settings.scheduler,
        steps=settings.denoising_steps,
        guidance=settings.guidance,
    )
    if settings.sweep is None:
        return [plain]
    at = settings.sweep.checkpoints
    varied = {
        "checkpoint": checkpoints("model") if at == "all" else at,
        "guidance": settings.sweep.guidance,
        "steps": settings.sweep.denoising_steps,
    }
    return [plain.model_copy(update={**point, "name": _name(point)}) for point in _grid(varied)]


def _grid(varied: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    given = {name: values for name, values in varied.items() if values}
    return [dict(zip(given, values, strict=True)) for values in product(*given.values())]


_WORDS = {"checkpoint": "step", "guidance": "guidance", "steps": "steps"}


def _name(point: Mapping[str, Any]) -> str:
    return "-".join(f"{_WORDS[name]}{value:g}" for name, value in point.items())


def _own(settings: GenerateStage, entry: NamedRequest) -> Series:
    names = {"scheduler": "scheduler", "steps": "denoising_steps", "guidance": "guidance"}
    wanted = {name: getattr(entry, key) or getattr(settings, key) for name, key in names.items()}
    request = Request(**{name: getattr(entry, name) for name in Request.model_fields})
    role = place_of(settings, entry.model)
    return Series(name=entry.name, request=request, role=role, checkpoint=entry.checkpoint, **wanted)


def made_series(synthetic: Dataset) -> list[MadeSeries]:
    """The series of a Dataset; none where it tells of none.

    Raises UserError naming dataset.json where it tells of them in another form than ours.
    """
    try:
        return [MadeSeries.model_validate(one) for one in synthetic.info.about.get("series", ())]
    except ValidationError as error:
        raise UserError(
            f"about.series is not of our form ({error})",
            where=str(synthetic.folder / "dataset.json"),
            hint="remove it: how the images were drawn, and what the generator saw, is then unknown and shown so",
        ) from error


def series_of(dataset: Dataset, image_id: str) -> MadeSeries:
    """The series of a synthetic image. Raises UserError for an image that is not in the Dataset or not synthetic."""
    row = dataset.rows.iloc[position(dataset, image_id)]
    return next(one for one in made_series(dataset) if one.name == row["request"])


def solver_of(dataset: Dataset, series: str) -> dict[str, Any] | None:
    """The solver's options that a Dataset records of one of its series; None where it records none."""
    return next((one.solver for one in made_series(dataset) if one.name == series), None)


def learnt_by(synthetic: Dataset) -> tuple[TrainingData, ...] | None:
    """What each different generator of a Dataset learnt from; None if that is not told of all of them.

    Raises UserError as `made_series`.
    """
    models = {one.model: one.training_data for one in made_series(synthetic)}
    told = tuple(one for one in models.values() if one is not None)
    return told if told and len(told) == len(models) else None


def barred_patients(synthetic: Dataset) -> frozenset[str]:
    """Official test patients whom a generator of the Dataset learnt from, as far as the Dataset says so.

    Those whom the Dataset may not name stand in its own record, which does not leave with it, see `data.pseudonyms`.
    Raises UserError as `made_series`.
    """
    split = together([split for one in made_series(synthetic) for split in one.boxed_splits])
    return with_names(synthetic.folder, split.moved) if split else frozenset()


def moved_patients(dataset: Dataset) -> BoxedSplit | None:
    """Test patients who were moved to train or val of a real Dataset, or from whom a generator of a synthetic one
    learnt. Raises UserError as `made_series`."""
    moved = dataset.info.about.get("boxed_split")
    if not dataset.info.synthetic:
        return BoxedSplit.model_validate(moved) if moved else None
    split = together([split for one in made_series(dataset) for split in one.boxed_splits])
    return split.model_copy(update={"moved": tuple(sorted(with_names(dataset.folder, split.moved)))}) if split else None


def position(dataset: Dataset, image_id: str) -> int:
    """Row of a synthetic image in the index. Raises UserError as `series_of`."""
    ids = dataset.rows["image_id"]
    found = (np.flatnonzero(ids == name) for name in possible_ids(image_id))
    place = next((int(places[0]) for places in found if len(places)), -1)
    if place < 0:
        hint = f"it has {ids.iloc[0]} to {ids.iloc[-1]}" if len(ids) else "it is empty"
        raise UserError(f"no image {image_id!r}", where=str(dataset.folder), hint=hint)
    if not dataset.rows["generation"].iloc[place]:
        raise UserError(f"image {image_id!r} is a real one", where=str(dataset.folder), hint="name a synthetic Dataset")
    return place
