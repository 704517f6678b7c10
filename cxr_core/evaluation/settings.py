"""Settings of the evaluate stage: what is looked at, and which utility experiments are run."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cxr_core.data.findings import NO_FINDING
from cxr_core.settings import Settings, StageSettings


class EvaluateInputs(Settings):
    """The two Datasets that are compared."""

    real: str
    """The real Dataset with its patient split: a stage or a folder."""
    synthetic: str
    """The synthetic Dataset: a stage or a folder."""


class Grids(Settings):
    """Pictures of real beside synthetic images."""

    findings: tuple[str, ...] = ()
    """Findings shown, one picture each; empty: the six with the most synthetic images."""
    num_columns: int = Field(default=6, ge=1, le=16)
    """Real images, and as many synthetic ones, of each finding."""


class Utility(Settings):
    """One utility experiment: a classifier for one finding, trained on real and on synthetic images.

    Its arms are n real images (`real`); n/2 real and n/2 synthetic (`mixed`); the same n/2 real alone, for as many
    epochs (`half`); and these shown twice an epoch, for as many optimiser steps as n images take (`doubled`). The value
    of synthetic images is `mixed` minus `doubled`, at equal steps, and besides `mixed` minus `half`, at equal epochs.
    Every arm has as many images with the finding as without and is judged on the same real images.
    """

    finding: str
    """The finding to tell, e.g. Edema."""
    negatives: str = NO_FINDING
    """What it is told from."""
    protocol: Literal["repaired", "as_written"] = "repaired"
    """`repaired`: training images of the train split, test images of the official test split as they are, so no patient
    is in both. `as_written`: what the code of Malik and Humair (2023) did. It takes training and test images from the
    official training list in its order, the first ones to train and the next ones to test, whoever's they are, and
    augments test images too. It leaks, and is labelled so wherever it is shown."""
    match_views: bool = True
    """Of `repaired`: for each image with the finding one without it of the same view, in training and in test, real and
    synthetic, so that the view alone tells nothing. `as_written` never matches."""
    num_images: int = Field(ge=4, multiple_of=4)
    """n: training images, counted as `counts` says; a multiple of 4, since each half is half positive."""
    num_test: int = Field(default=300, ge=2, multiple_of=2)
    """Test images, counted as `counts` says, equally many of each class. `repaired` takes as many of these as there
    are, `as_written` all or none."""
    counts: Literal["in_all", "per_class"] = "in_all"
    """Whether num_images, num_test and min_test are of both classes together, or of each of the two. The study's text
    reads as the first, its code as the second."""
    min_test: int = Field(default=40, ge=2, multiple_of=2)
    """Of `repaired`: with fewer test images than this the experiment is not run, and the output says so."""
    rule: Literal["any", "only"] = "any"
    """Which images have the finding: `any` with it among others, or those with it `only`."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """Pixels a side that the classifier sees (the study: 224); by default the real Dataset's size."""
    augment: Literal["study", "none"] = "study"
    """`study`: random flips left-right and up-down, and zoom by up to 20 %; of training images, and in the protocol
    `as_written` of test images too."""
    epochs: PositiveInt = 20
    """Passes over an arm's images."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    """One classifier is trained per seed (its start, order and augmentation); the images stay the same."""

    def each(self, number: int) -> int:
        """How many images of each class a count of these settings stands for."""
        return number if self.counts == "per_class" else number // 2

    @property
    def is_leaky(self) -> bool:
        """Whether patients, and with them the answer, can be in training and in test."""
        return self.protocol == "as_written"

    @property
    def matches_views(self) -> bool:
        """Whether each positive has a negative of its view."""
        return self.match_views and not self.is_leaky

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.finding == NO_FINDING or self.finding == self.negatives:
            raise ValueError(f"cannot tell {self.finding} from {self.negatives}: name a finding and other negatives")
        if self.min_test > self.num_test:
            raise ValueError(f"min_test {self.min_test} is above num_test {self.num_test}: lower it")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat one: a seed twice is not two experiments")
        return self


class EvaluateStage(StageSettings):
    """Measure a synthetic Dataset against the real one."""

    kind: Literal["evaluate"]
    """The kind of this stage."""
    inputs: EvaluateInputs
    """The Datasets compared."""
    grids: Grids = Grids()
    """Pictures of real beside synthetic images."""
    utility: tuple[Utility, ...] = ()
    """Utility experiments (the study's Table I), any number of findings."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        repeated = {entry.model_dump_json() for entry in self.utility}
        if len(repeated) != len(self.utility):
            raise ValueError("utility lists the same experiment twice: remove one")
        return self
