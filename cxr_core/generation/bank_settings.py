"""Settings of the invert stage: latents with which a PG-GAN draws real images of given findings."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cxr_core.settings import Settings, StageSettings, check_whole_batches


class InvertInputs(Settings):
    """Whose latents are found, and of what."""

    gan: str
    """A train stage of model pggan (its final checkpoint is used), or the folder of one."""
    dataset: str
    """The Dataset of real images, with as many pixels as the PG-GAN draws: a stage or a folder."""


class InvertStage(StageSettings):
    """Find latents of real images, so that a PG-GAN, which hears no words, can be asked for findings."""

    kind: Literal["invert"]
    """The kind of this stage."""
    inputs: InvertInputs
    """Whose latents are found, and of what."""
    findings: tuple[str, ...] = Field(min_length=1)
    """Findings or combinations ("Edema", "Effusion|Mass", "No Finding"): images that have exactly these labels."""
    images_each: PositiveInt = 100
    """Training images of each at most, always the same ones."""
    method: Literal["features", "direct"] = "direct"
    """features: the discriminator's features of an image are its latent, as the 2023 study did it. direct: a latent is
    searched whose image is the real one."""
    steps: PositiveInt = 200
    """Of the search."""
    candidates: PositiveInt = 512
    """Random latents that are drawn once; the search for an image starts from those that draw what is nearest to it."""
    restarts: PositiveInt = 2
    """Searches of an image, from as many of the candidates; the best is kept."""
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    """Adam's, in the search."""
    feature_weight: float = Field(default=0.1, ge=0)
    """Weight of the squared error of the discriminator's features, relative to their own size, beside that of pixels
    (in -1..1)."""
    batch_size: PositiveInt = 16
    """Images searched together."""
    shard_size: PositiveInt = 64
    """Images per shard: a multiple of batch_size."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        if self.restarts > self.candidates:
            raise ValueError(
                f"restarts {self.restarts} exceeds candidates {self.candidates}, which searches start from"
            )
        return self
