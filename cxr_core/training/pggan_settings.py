"""Settings of `model: pggan` of the train stage. The defaults are those of Segal et al. 2021, arXiv 2010.03975."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cxr_core.models.pggan_folder import GROUP, PGGANS, size_at
from cxr_core.settings import Formerly, Settings
from cxr_core.training.ranks_settings import check_shares
from cxr_core.training.settings import RankedTrain


class PgganInputs(Settings):
    """What the PG-GAN learns from."""

    dataset: str
    """The Dataset of its images, with as many pixels as the preset draws: a stage or a folder."""


class Scale(Settings):
    """What one scale has otherwise than the others."""

    images_per_scale: Annotated[PositiveInt | None, Formerly("images")] = None
    """Real images that are shown before the next scale. Null: the stage's."""
    fade_images: int | None = Field(default=None, ge=0)
    """Of these, the images over which its layers fade in. Null: the stage's."""
    batch_size: PositiveInt | None = None
    """Images a step. Null: the stage's."""


class Budget(Settings):
    """What a scale has."""

    images: int
    """Real images before the next scale; of the last scale, no bound."""
    fade_images: int
    """Images over which its layers fade in."""
    batch_size: int
    """Images a step."""


class PgganTrain(RankedTrain):
    """Train a PG-GAN, the study's first system, from random weights (Karras et al. 2018, arXiv 1710.10196): images
    without words, first of 4 pixels a side, then of 8, 16 ... up to the preset's."""

    model: Literal["pggan"]
    """What is trained."""
    inputs: PgganInputs
    """What it learns from."""
    preset: Literal["nano", "small", "segal256", "segal1024"] = "small"
    """Its size (see `cxr_core.models.pggan_folder`): nano draws 16 px, small 64 px, the others are for a GPU."""
    channels: Literal[1, 3] = 1
    """Of its images: 3 as the study's, all of which learn the same grey."""
    images_per_scale: Annotated[PositiveInt, Formerly("images")] = 1_600_000
    """Real images shown at each scale but the last, which takes the rest of `steps`."""
    fade_images: int = Field(default=800_000, ge=0)
    """Of these, the images over which the layers of a new scale fade in; none at 4 pixels."""
    scales: Mapping[int, Scale] = {}
    """By pixels a side, scales with other numbers, such as {4: {images_per_scale: 800000}, 256: {batch_size: 8}}."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """Weight of the discriminator's gradient penalty (WGAN-GP, Gulrajani et al. 2017, arXiv 1704.00028)."""
    drift: float = Field(default=1e-3, ge=0)
    """Weight of the squared scores of real images, which keeps them near zero."""
    num_previews: int = Field(default=8, ge=1, le=64)
    """Images drawn at each checkpoint, always from the same latents."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Of Adam, for both networks."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after warm-up, as of the other models."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Decay of Adam's first and second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; 0 makes AdamW the Adam that PG-GANs are trained with."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Gradients of a network with a larger global L2 norm are scaled down to it; null leaves them."""
    validation_images: Literal[0] = 0
    """No loss of a GAN tells how good its images are: an evaluate stage does."""

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Of each scale, from 4 pixels on."""
        num = len(PGGANS[self.preset].widths)
        return tuple(self._budget(self.scales.get(size_at(scale), Scale()), is_first=not scale) for scale in range(num))

    @property
    def first_steps(self) -> tuple[int, ...]:
        """The step (from 0) at which each scale begins."""
        firsts = [0]
        for budget in self.budgets[:-1]:
            firsts.append(firsts[-1] + -(-budget.images // budget.batch_size))
        return tuple(firsts)

    def num_images(self, start: int, stop: int) -> int:
        """Real images that are shown from step `start` to `stop`."""
        stops = (*self.first_steps[1:], self.steps)
        return sum(
            budget.batch_size * max(0, min(stop, last) - max(start, first))
            for budget, first, last in zip(self.budgets, self.first_steps, stops, strict=True)
        )

    def _budget(self, scale: Scale, *, is_first: bool) -> Budget:
        images, batch_size = scale.images_per_scale or self.images_per_scale, scale.batch_size or self.batch_size
        fade_images = self.fade_images if scale.fade_images is None else scale.fade_images
        return Budget(images=images, fade_images=0 if is_first else fade_images, batch_size=batch_size)

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        sizes = [size_at(scale) for scale in range(len(self.budgets))]
        if unknown := sorted(set(self.scales) - set(sizes)):
            raise ValueError(f"scales names {unknown}, but {self.preset} has {sizes} pixels a side")
        for size, budget in zip(sizes, self.budgets, strict=True):
            if budget.batch_size % GROUP:
                raise ValueError(f"the batch at {size} pixels, {budget.batch_size}, is no multiple of {GROUP}")
            if size < sizes[-1] and budget.fade_images > budget.images:
                raise ValueError(
                    f"at {size} pixels fade_images {budget.fade_images} exceeds images_per_scale {budget.images}"
                )
        return self

    @model_validator(mode="after")
    def _ranks_share_the_batches(self) -> Self:
        sizes = {size_at(scale): budget.batch_size for scale, budget in enumerate(self.budgets)}
        batches = {f"the batch at {size} pixels, {batch},": batch for size, batch in sizes.items()}
        check_shares(batches, self.num_ranks, group=GROUP)
        return self

    @model_validator(mode="after")
    def _grows_up(self) -> Self:
        last = self.budgets[-1]
        needed = self.first_steps[-1] + max(1, -(-last.fade_images // last.batch_size))
        if self.steps < needed:
            raise ValueError(
                f"after {self.steps} steps it has not grown up to {PGGANS[self.preset].image_size} pixels: give "
                f"{needed} steps at least, or lower images_per_scale and fade_images"
            )
        return self
