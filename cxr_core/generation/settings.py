"""Settings of the generate stage: which images are asked for, and how they are sampled."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cxr_core.settings import Settings, StageSettings, check_whole_batches


class GenerateInputs(Settings):
    """What generation starts from."""

    model: str
    """A train stage of model diffusion (its final checkpoint is used), or a folder that diffusers can open."""
    like: str
    """The real Dataset that gives the findings, the view distributions and the prompt style: a stage or a folder."""
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


class Request(Settings):
    """How many images of what: exactly one of `counts`, `like`, `balanced` and `fill`."""

    counts: dict[str, PositiveInt] | None = Field(default=None, min_length=1)
    """Images per finding or combination, e.g. {"Edema": 100, "Effusion|Cardiomegaly": 20, "No Finding": 100}."""
    like: Literal["train"] | None = None
    """`num_images` images with the label combinations and views of the real training images, in proportion."""
    balanced: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Findings or combinations that share `num_images` equally; what does not divide goes to the first ones."""
    fill: PositiveInt | None = None
    """Fill the rare findings up: of each finding as many images, with it alone, as its real training images are fewer
    than this. A finding without a real training image gets none, which is said."""
    num_images: PositiveInt | None = None
    """Images in all, for `like` and `balanced`."""
    view: Literal["real", "PA", "AP"] = "real"
    """`real`: in the proportions of the real training images with that finding. Or all of them in one view."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = ("counts", "like", "balanced", "fill")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            wrong = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of counts, like, balanced and fill, not {wrong}")
        if given[0] in ("counts", "fill") and self.num_images is not None:
            raise ValueError(f"{given[0]} already says how many images: remove num_images")
        if given[0] in ("like", "balanced") and self.num_images is None:
            raise ValueError(f"{given[0]} needs num_images, e.g. num_images: 1000")
        return self

    def most(self, num_findings: int) -> int:
        """Images in all; of `fill` as many as it can be at most."""
        return self.num_images or sum((self.counts or {}).values()) or (self.fill or 0) * num_findings


class GenerateStage(StageSettings):
    """Draw a labelled synthetic Dataset from a trained model."""

    kind: Literal["generate"]
    """The kind of this stage."""
    inputs: GenerateInputs
    """Where the model and the real Dataset come from."""
    request: Request
    """Which images are drawn."""
    gate: Gate | None = None
    """Whether images are looked at and drawn again; needs `inputs.gate`."""
    scheduler: Literal["dpmsolver++", "ddim", "ddpm"] = "dpmsolver++"
    """The sampler. DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) needs 20 to 25 steps, DDIM 50 or more."""
    steps: int = Field(default=20, ge=1, le=1000)
    """Denoising steps per image."""
    guidance: float = Field(default=5.0, ge=1.0, le=30.0)
    """Classifier-free guidance scale (Ho and Salimans 2022, arXiv 2207.12598); 1 is none and halves the work."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the models. bfloat16 is for GPUs; on most CPUs it is far slower than float32."""
    channels_last: bool = False
    """Keep the tensors of UNet and VAE with their channels last, which GPUs compute faster in half precision."""
    compile: bool = False
    """Compile UNet and decoder by torch.compile: minutes at the start of each task, faster after. Needs a GPU."""
    batch_size: PositiveInt = 16
    """Images sampled together. Pixels drift in the last bit with it, so it is part of the plan."""
    shard_size: PositiveInt = 512
    """Images per shard: a multiple of batch_size, so that no batch crosses a shard."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self

    @model_validator(mode="after")
    def _gate_has_judge(self) -> Self:
        if (self.gate is None) != (self.inputs.gate is None):
            raise ValueError("`gate` and `inputs.gate` go together: name a classifier in inputs.gate, and set gate: {}")
        return self
