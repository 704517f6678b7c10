"""Settings of memorisation: what is compared with what, and when a pair of images is called a copy."""

from typing import Annotated

from pydantic import Field, PositiveInt

from cxr_core.models.presets import ClassifierName
from cxr_core.settings import Formerly, Settings

WIDTH = 64
"""Numbers that the siamese network makes of an image."""


class Targeted(Settings):
    """Captions (labels and view) that few training images have, drawn with many seeds: a generator that learnt an image
    by heart gives it away when it is asked in the words that only this image has."""

    max_images: PositiveInt = 5
    """A caption is rare where at most this many training images have it."""


class Reidentification(Settings):
    """A siamese network that tells whether two images are of one patient; it learns from pairs of training patients."""

    preset: ClassifierName = "small"
    """Its convolutions, from random weights."""
    steps: int = Field(default=600, ge=20)
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=4, le=1024)
    """Patients a step, two images of each."""
    image_size: int = Field(default=64, ge=32, le=1024)
    """Pixels a side that the network sees."""
    learning_rate: float = Field(default=2e-3, gt=0, lt=1)
    """Peak of AdamW's; it rises over the first steps and falls to zero along half a cosine."""
    min_auroc: float = Field(default=0.70, ge=0.5, lt=1)
    """Where the lower 95 % bound of its AUROC on pairs of held-out patients is below, it says nothing."""
    false_match_rate: Annotated[float, Formerly("false_matches")] = Field(default=0.01, gt=0, lt=0.5)
    """Share of held-out images, none of whose patients was trained on, that match a training patient all the same."""


class Memorisation(Settings):
    """Is a synthetic image nearer to a training image than images of other patients are?

    Looked at are all training images, in the features of the stage's extractors (`inputs.judge`, the model of
    `fidelity.features`) and in their spectra, and pixel by pixel for those that are nearest.
    """

    percentile: float = Field(default=99.9, ge=50, lt=100)
    """Of the nearest training image of held-out real images: a synthetic image beyond it is called a copy."""
    num_train: PositiveInt = 2000
    """Training images, at most and of whole patients, whose own nearest image of another patient is shown beside."""
    num_planted: int = Field(default=200, ge=20)
    """Training images of which copies are planted to try the search first."""
    shard_size: PositiveInt = 1024
    """Images of a shard of thumbnails and spectra."""
    search_shard_size: Annotated[PositiveInt, Formerly("search_size")] = 8192
    """Images of a shard that looks for them among all training images; bounds what such a shard holds in memory."""
    targeted: Targeted | None = None
    """Whether captions that few training images have give these away; needs synthetic images of such captions, as
    `request: {rare_captions: ...}` of a generate stage draws them."""
    reidentification: Reidentification | None = None
    """Whether synthetic images match a training patient."""
