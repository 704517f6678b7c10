"""Settings of the generate stage: which images are asked for, and how they are sampled."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from cxr_core.models.solver_options import NOISE, Noise, Scheduler
from cxr_core.settings import Absent, Formerly, Name, Settings, StageSettings, check_whole_batches

Steps: TypeAlias = Annotated[int, Field(ge=1, le=1000)]
FromBank: TypeAlias = Literal["gaussian", "each"]
Guidance: TypeAlias = Annotated[float, Field(ge=1.0, le=30.0)]


class GenerateInputs(Settings):
    """What generation starts from."""

    model: str | tuple[str, ...]
    """A train stage of model diffusion or pggan (its final checkpoint is used), or a folder of such a model. A PG-GAN
    hears no words: labels of its images say what was asked for, not what is drawn. Or several models, among which
    `requests` choose; the first is that of requests that name none."""
    like: str
    """The real Dataset that gives the findings, the view distributions and the prompt style: a stage or a folder."""
    bank: str | None = None
    """The latents that a PG-GAN draws from, by the labels that are asked for: an invert stage. Without it, a PG-GAN
    draws from random latents."""
    gate: str | None = None
    """The classifier of the gate: a train stage with `model: classifier`, or a folder of one. It must not be the judge
    of an evaluation of these images, nor have learnt from the same real images as that one."""


class Gate(Settings):
    """Images that do not show what they were asked for, or that look like no radiograph, are drawn again.

    All bounds are taken from real validation images of `inputs.like`, once, when the plan is frozen.
    """

    max_draws: int = Field(default=4, ge=1, le=100)
    """Draws of an image at most, the first one included. Where none passes, the best of them is stored and marked so;
    1 draws nothing again and marks only."""
    real_rejected: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the real images with a finding that the bound of this finding would reject: images must score above."""
    min_auroc: float = Field(default=0.7, ge=0.5, lt=1)
    """Findings that the classifier tells worse than this on real validation images are not gated."""
    num_real: int = Field(default=2000, ge=20)
    """Real validation images, at most, from which the bounds are taken."""
    first_draws: int = Field(default=1000, ge=0)
    """First draws, about so many, kept as a Dataset of their own (`first_draws/` in the stage's folder), passed
    or not: an evaluation's judge sees them too and says what the gate changed."""


_RARE = 300
"""Rare captions that are counted with where nothing bounds them: ChestX-ray14 has 216 combinations of one image."""


class RareCaptions(Settings):
    """Captions (labels and view) that few training images have, to see whether these can be drawn out of the model."""

    max_images: PositiveInt = 5
    """Of a rare caption: training images at most."""
    per_caption: PositiveInt = 16
    """Images of each, and of each common caption that is matched with one to compare."""
    num_captions: PositiveInt | None = None
    """Rare captions at most, those of the fewest images first; by default all."""


class Request(Settings):
    """How many images of what: exactly one of `counts`, `like`, `balanced`, `fill` and `rare_captions`."""

    counts: dict[str, PositiveInt] | None = Field(default=None, min_length=1)
    """Images per finding or combination, e.g. {"Edema": 100, "Effusion|Cardiomegaly": 20, "No Finding": 100}. Where
    the prompts of `inputs.like` say places, a finding may have one: {"Mass in the upper left": 50}."""
    like: Literal["train"] | None = None
    """`num_images` images with the label combinations and views of the real training images, in proportion."""
    balanced: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Findings or combinations that share `num_images` equally; what does not divide goes to the first ones."""
    fill: PositiveInt | None = None
    """Fill the rare findings up: of each finding as many images, with it alone, as its real training images are fewer
    than this. A finding without a real training image gets none, which is said; one of fewer than 10 patients gets as
    many as this, so that what is drawn does not tell how few they are."""
    rare_captions: RareCaptions | None = None
    """What few training images have, and as common captions to compare with; for `memorisation.targeted`."""
    num_images: PositiveInt | None = None
    """Images in all, for `like` and `balanced`."""
    view: Literal["real", "PA", "AP"] = "real"
    """`real`: in the proportions of the real training images with that finding. Or all of them in one view."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = ("counts", "like", "balanced", "fill", "rare_captions")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            wrong = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of counts, like, balanced, fill and rare_captions, not {wrong}")
        if given[0] in ("counts", "fill", "rare_captions") and self.num_images is not None:
            raise ValueError(f"{given[0]} already says how many images: remove num_images")
        if given[0] in ("like", "balanced") and self.num_images is None:
            raise ValueError(f"{given[0]} needs num_images, e.g. num_images: 1000")
        if self.rare_captions and self.view != "real":
            raise ValueError("rare_captions are of the view that their training images have: remove view")
        return self

    def most(self, num_findings: int) -> int:
        """Images in all; of `fill` and of `rare_captions` without a bound as many as is usual at most."""
        if self.rare_captions:
            return 2 * self.rare_captions.per_caption * (self.rare_captions.num_captions or _RARE)
        return self.num_images or sum((self.counts or {}).values()) or (self.fill or 0) * num_findings


class NamedRequest(Request):
    """One of several requests of a stage, with what it wants otherwise than the stage."""

    name: Name
    """What its images are told apart by, in the index and in an evaluation."""
    model: str | None = None
    """One of `inputs.model`."""
    checkpoint: PositiveInt | None = None
    """Step of the model's checkpoint, where that is a train stage which keeps it; by default its last."""
    scheduler: Scheduler | None = None
    """As the stage's."""
    denoising_steps: Annotated[Steps | None, Formerly("steps")] = None
    """As the stage's."""
    guidance: Guidance | None = None
    """As the stage's."""


class GenerateSweep(Settings):
    """One request drawn once for every combination of these. Each is named by what it is: `step2000-guidance3`."""

    checkpoints: Literal["all"] | tuple[PositiveInt, ...] = ()
    """Steps of checkpoints that the train stage keeps, or all of them; empty: its last."""
    guidance: tuple[Guidance, ...] = ()
    """Guidance scales; empty: the stage's."""
    denoising_steps: Annotated[tuple[Steps, ...], Formerly("steps")] = ()
    """Denoising steps; empty: the stage's."""

    @model_validator(mode="after")
    def _varies(self) -> Self:
        lists = {name: value for name, value in dict(self).items() if value and value != "all"}
        if not lists and self.checkpoints != "all":
            raise ValueError("nothing is varied: give checkpoints, guidance or denoising_steps")
        for name, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {list(values)} repeat one: name each once")
        return self


class GenerateStage(StageSettings):
    """Draw a labelled synthetic Dataset from a trained model."""

    kind: Literal["generate"]
    """The kind of this stage."""
    inputs: GenerateInputs
    """Where the model and the real Dataset come from."""
    request: Request | None = None
    """Which images are drawn."""
    requests: tuple[NamedRequest, ...] = ()
    """In place of `request`: several, each with a model, checkpoint, sampler or guidance of its own where it wants."""
    sweep: GenerateSweep | None = None
    """Draw `request` from several checkpoints, at several scales of guidance or numbers of steps."""
    gate: Gate | None = None
    """Whether images are looked at and drawn again; needs `inputs.gate`."""
    scheduler: Scheduler = "dpmsolver++"
    """The sampler. DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) needs 20 to 25 steps, DDIM 50 or more."""
    denoising_steps: Annotated[Steps, Formerly("steps")] = 20
    """Denoising steps per image."""
    guidance: Guidance = 5.0
    """Classifier-free guidance scale (Ho and Salimans 2022, arXiv 2207.12598); 1 is none and halves the work."""
    from_bank: FromBank = "gaussian"
    """gaussian: new latents of the normal distribution of those of images with the same labels. each: the latents of
    these images themselves, so that there are as many different images as latents."""
    noise: Annotated[Noise, Absent("mt19937")] = NOISE
    """What makes noise of an image's seed. philox: all 63 bits of the seed count, and every machine gets the same
    numbers. mt19937, as in older runs: the low 32 bits, so that of 100,000 images some pairs start from one noise."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the models. bfloat16 is for GPUs; on most CPUs it is far slower than float32."""
    channels_last: bool = False
    """Keep the tensors of UNet and VAE with their channels last, which GPUs compute faster in half precision."""
    compile: bool = False
    """Compile UNet and decoder by torch.compile: minutes at the start of each task, faster after. Needs a GPU."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """How the UNet computes attention: torch's own, or xformers', which needs a GPU and the extra `gpu`."""
    batch_size: PositiveInt = 16
    """Images sampled together. Pixels drift in the last bit with it, so it is part of the plan."""
    shard_size: PositiveInt = 512
    """Images per shard: a multiple of batch_size, so that no batch crosses a shard."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """What `inputs.model` names."""
        named = self.inputs.model
        return (named,) if isinstance(named, str) else named

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> Self:
        if (self.request is None) == (not self.requests):
            raise ValueError("give exactly one of `request` and `requests`")
        if self.sweep and self.request is None:
            raise ValueError("`sweep` draws one `request` several times: remove `requests`, or give each its guidance")
        names = [entry.name for entry in self.requests]
        if len(set(names)) != len(names):
            raise ValueError(f"requests {names} have a name twice")
        return self

    @model_validator(mode="after")
    def _models_are_used(self) -> Self:
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError(f"inputs.model {list(self.models)}: name each model once")
        for entry in self.requests:
            if entry.model not in (None, *self.models):
                raise ValueError(f"request {entry.name!r} wants model {entry.model!r}: inputs.model has {self.models}")
        unused = set(self.models[1:]) - {entry.model for entry in self.requests}
        if unused:
            raise ValueError(f"no request names {sorted(unused)} of inputs.model")
        return self

    @model_validator(mode="after")
    def _gate_has_judge(self) -> Self:
        if (self.gate is None) != (self.inputs.gate is None):
            raise ValueError("`gate` and `inputs.gate` go together: name a classifier in inputs.gate, and set gate: {}")
        return self
