"""Settings of the train stages whose models judge images: the classifier of findings, and the localiser of them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cxr_core.models.presets import ClassifierName
from cxr_core.settings import Settings
from cxr_core.training.settings import TrainSettings


class ClassifierInputs(Settings):
    """What the classifier learns from."""

    dataset: str
    """The Dataset of its images and labels: a stage or a folder."""


class ClassifierTrain(TrainSettings):
    """Train a multi-label classifier of findings from random weights: later the judge of synthetic images."""

    model: Literal["classifier"]
    """What is trained."""
    inputs: ClassifierInputs
    """What it learns from."""
    preset: ClassifierName = "small"
    """Its architecture (see `cxr_core.models.presets`): small for a CPU and 32 to 128 pixels, the others for a GPU."""
    findings: tuple[str, ...] = ()
    """What it tells, an output each; empty: all findings of the Dataset that at least one training image has."""
    image_size: int | None = Field(default=None, ge=16, le=1024)
    """Pixels a side that it sees; null: those of the Dataset."""
    augment: Literal["none", "mild"] = "mild"
    """mild shifts, turns, zooms, changes brightness and contrast a little; it never flips, as the heart has a side."""
    balance: bool = True
    """Images with a finding weigh up to 20 times as much as those without, so that rare findings are learnt. The
    outputs then rank images, but are no probabilities."""
    validation_images: int = Field(default=512, ge=0)
    """Images of held-out patients on which loss and AUROC are measured at each checkpoint; 0 measures none."""

    @model_validator(mode="after")
    def _findings_differ(self) -> Self:
        twice = sorted({name for name in self.findings if self.findings.count(name) > 1})
        if twice:
            raise ValueError(f"findings names {', '.join(twice)} twice")
        return self


class LocaliserInputs(Settings):
    """What the localiser learns from."""

    dataset: str
    """The Dataset of its images and bounding boxes: a stage or a folder."""


class LocaliserTrain(TrainSettings):
    """Train a small convolutional net from bounding boxes to tell where findings are: later the judge of positions.

    An image with a finding but without a box of it says nothing of where it is, and is not learnt from as to that.
    """

    model: Literal["localiser"]
    """What is trained."""
    inputs: LocaliserInputs
    """What it learns from."""
    findings: tuple[str, ...] = ()
    """What it finds, a map each; empty: all findings that at least one training image has a box of."""
    image_size: int | None = Field(default=None, ge=32, le=1024, multiple_of=16)
    """Pixels a side that it sees; null: those of the Dataset."""
    augment: Literal["none", "mild"] = "mild"
    """mild shifts, turns, zooms (boxes too), changes brightness and contrast a little; it never flips."""
    boxed_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of each batch that has a box; the rest is any other image."""
    validation_images: int = Field(default=512, ge=0)
    """Held-out images with a box on which the loss is measured at each checkpoint; 0 measures none."""
