"""Settings of a benefit experiment: which arms are trained, what is compared, and what is compared first."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cxr_core.models.presets import ClassifierName
from cxr_core.settings import Formerly, LocalPath, Settings

MACRO = "macro"
"""The mean over findings, where a finding's name could stand."""

REAL, SYNTHETIC, PRETRAIN = "real", "synthetic", "pretrain"

_Some = Annotated[int, Field(ge=1, le=99)]
_Any = Annotated[int, Field(ge=1, le=1000)]


class Learner(Settings):
    """The classifier of all arms: one output a finding, from random weights, with equally many steps in every arm."""

    preset: ClassifierName = "small"
    """Its architecture (see `cxr_core.models.presets`): small for a CPU, the others for a GPU."""
    image_size: int | None = Field(default=None, ge=16, le=1024)
    """Pixels a side that it sees; null: those of the real Dataset."""
    steps: PositiveInt = 2000
    """Optimiser steps, the same in every arm; of `pretrain` the first half sees synthetic images."""
    batch_size: int = Field(default=32, ge=2)
    """Images per step."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after warm-up, as of a train stage."""
    warmup_steps: NonNegativeInt = 50
    """Steps in which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay."""
    augment: Literal["none", "mild"] = "mild"
    """mild shifts, turns, zooms, changes brightness and contrast a little; it never flips, as the heart has a side."""

    @model_validator(mode="after")
    def _warm_in_time(self) -> Self:
        if self.warmup_steps >= self.steps // 2:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below half of steps {self.steps}: lower it")
        return self


class Primary(Settings):
    """The one comparison that the experiment is made for: it is reported first and needs no correction."""

    arm: str
    """An arm, e.g. replace-50."""
    against: str = REAL
    """Another one, e.g. real, or real-50 for the same real images without the synthetic ones."""
    finding: str = MACRO
    """A finding, or macro."""


class Benefit(Settings):
    """What do synthetic images add? Classifiers are trained on several arms and tested on real held-out patients.

    The arms: `real`, n real images; `synthetic`, as many synthetic ones; `replace-50`, half of the n replaced;
    `add-50`, n and half as many synthetic ones; `pretrain`, synthetic images first and then the n; `real-50`, half of
    the n alone, a point of the learning curve. Real images are whole patients, and a smaller arm's are among a
    larger one's. Synthetic images are drawn to have the findings and views of those whose place they take.
    """

    findings: tuple[str, ...] = Field(min_length=1)
    """What the classifier tells, an output each."""
    num_real: PositiveInt | None = None
    """n: real training images at most, whole patients in the order of a hash that no seed changes; null: all."""
    synthetic: bool = True
    """Whether there is an arm of synthetic images alone."""
    replace_percent: Annotated[tuple[_Some, ...], Formerly("replace")] = (50,)
    """Per cent of the n real images that are replaced by synthetic ones, an arm each."""
    add_percent: Annotated[tuple[_Any, ...], Formerly("add")] = ()
    """Synthetic images added to the n, in per cent of n, an arm each."""
    pretrain: bool = False
    """Whether there is an arm that sees synthetic images first."""
    learning_curve_percent: Annotated[tuple[_Some, ...], Formerly("curve")] = ()
    """Per cent of the n that are taken alone: the learning curve, from which the exchange rate is read (two at least)
    and against which `replace_percent` can be compared."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """One classifier is trained per arm and seed (its start, order and augmentation); the images stay the same."""
    learner: Learner = Learner()
    """The classifier."""
    primary: Primary | None = None
    """The comparison that is reported first. Null: there is none, and all are corrected for being many."""
    generator_trained_on: Annotated[Literal["any", "same_n"], Formerly("generator_saw")] = "any"
    """`same_n`: an arm with synthetic images is run only if their generator learnt from exactly the arm's real images
    (see `train_images` of a latents stage), so that nothing but these real images is behind either side. What a VAE
    that was trained by a stage of its own had seen is not recorded, and not asked."""
    split: Literal["test", "val"] = "test"
    """The real patients that classifiers are tested on. `val` while anything is still being chosen."""
    match_views: bool = True
    """Weigh test images without a finding so that their views are those of images with it: the view alone then scores
    exactly 0.5. False: the view's own AUROC stands beside the numbers."""
    min_images: int = Field(default=20, ge=2)
    """Test images needed with a finding, and as many without, for a number, also of a group of patients."""
    num_resamples: int = Field(default=1000, ge=100)
    """Resamples of test patients and training seeds."""
    adjudicated: LocalPath | None = None
    """A CSV of labels that people gave to test images: columns image_id, and findings ("Edema|Effusion", "" for none).
    All numbers are then given by these too, on the images that it names."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for name in ("findings", "replace_percent", "add_percent", "learning_curve_percent", "seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {list(values)} repeats one: remove it")
        if MACRO in self.findings:
            raise ValueError(f"a finding cannot be called {MACRO}: that is the mean over findings")
        return self

    @model_validator(mode="after")
    def _primary_is_there(self) -> Self:
        if self.primary is None:
            return self
        arms, findings = self.arm_names, (*self.findings, MACRO)
        for key, known in (("arm", arms), ("against", arms), ("finding", findings)):
            given = getattr(self.primary, key)
            if given not in known:
                raise ValueError(f"primary.{key} {given!r} is none of {', '.join(known)}")
        if self.primary.arm == self.primary.against:
            raise ValueError(f"primary compares {self.primary.arm} with itself")
        return self

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms in the order of reports."""
        return (
            REAL,
            *((SYNTHETIC,) if self.synthetic else ()),
            *(f"replace-{share}" for share in self.replace_percent),
            *(f"add-{share}" for share in self.add_percent),
            *((PRETRAIN,) if self.pretrain else ()),
            *self.curve_names,
        )

    @property
    def curve_names(self) -> tuple[str, ...]:
        """The arms of the learning curve, without the n."""
        return tuple(f"{REAL}-{share}" for share in self.learning_curve_percent)
