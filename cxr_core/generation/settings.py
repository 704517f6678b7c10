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


class Request(Settings):
    """How many images of what: exactly one of `counts`, `like` and `balanced`."""

    counts: dict[str, PositiveInt] | None = Field(default=None, min_length=1)
    """Images per finding or combination, e.g. {"Edema": 100, "Effusion|Cardiomegaly": 20, "No Finding": 100}."""
    like: Literal["train"] | None = None
    """`num_images` images with the label combinations and views of the real training images, in proportion."""
    balanced: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Findings or combinations that share `num_images` equally; what does not divide goes to the first ones."""
    num_images: PositiveInt | None = None
    """Images in all, for `like` and `balanced`."""
    view: Literal["real", "PA", "AP"] = "real"
    """`real`: in the proportions of the real training images with that finding. Or all of them in one view."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("counts", "like", "balanced") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of counts, like and balanced, not {' and '.join(given) or 'none'}")
        if given == ["counts"] and self.num_images is not None:
            raise ValueError("counts already say how many images: remove num_images")
        if given != ["counts"] and self.num_images is None:
            raise ValueError(f"{given[0]} needs num_images, e.g. num_images: 1000")
        return self

    @property
    def total(self) -> int:
        """Images in all."""
        return self.num_images if self.num_images is not None else sum((self.counts or {}).values())


class GenerateStage(StageSettings):
    """Draw a labelled synthetic Dataset from a trained model."""

    kind: Literal["generate"]
    """The kind of this stage."""
    inputs: GenerateInputs
    """Where the model and the real Dataset come from."""
    request: Request
    """Which images are drawn."""
    scheduler: Literal["dpmsolver++", "ddim", "ddpm"] = "dpmsolver++"
    """The sampler. DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) needs 20 to 25 steps, DDIM 50 or more."""
    steps: int = Field(default=20, ge=1, le=1000)
    """Denoising steps per image."""
    guidance: float = Field(default=5.0, ge=1.0, le=30.0)
    """Classifier-free guidance scale (Ho and Salimans 2022, arXiv 2207.12598); 1 is none and halves the work."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the models. bfloat16 is for GPUs; on most CPUs it is far slower than float32."""
    batch_size: PositiveInt = 16
    """Images sampled together. Pixels drift in the last bit with it, so it is part of the plan."""
    shard_size: PositiveInt = 512
    """Images per shard: a multiple of batch_size, so that no batch crosses a shard."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self
