"""Settings of the evaluate stage: what is looked at, and which utility experiments are run."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cxr_core.data.findings import NO_FINDING
from cxr_core.evaluation.benefit.settings import Benefit
from cxr_core.evaluation.diversity.settings import Diversity
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.position.settings import Position
from cxr_core.evaluation.sweep.settings import EvaluateSweep
from cxr_core.settings import Formerly, LocalPath, Settings, StageSettings, check_whole_batches


class EvaluateInputs(Settings):
    """The two Datasets that are compared."""

    real: str
    """The real Dataset with its patient split: a stage or a folder."""
    synthetic: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """The synthetic Dataset: a stage or a folder; of a sweep, also a list of these."""
    judge: str | None = None
    """The classifier that knows the findings: a train stage with `model: classifier`, or a folder of one."""
    localiser: str | None = None
    """What tells where findings are: a train stage with `model: localiser`, or a folder of one."""


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
    """n: training images, counted as `count_images` says; a multiple of 4, since each half is half positive."""
    num_test: int = Field(default=300, ge=2, multiple_of=2)
    """Test images, counted as `count_images` says, equally many of each class. `repaired` takes as many of these as
    there are, `as_written` all or none."""
    count_images: Annotated[Literal["in_all", "per_class"], Formerly("counts")] = "in_all"
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
        return number if self.count_images == "per_class" else number // 2

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


class Faithfulness(Settings):
    """Does a synthetic image show the finding it was asked for? Judged by a classifier that is tried first.

    Where the judge does not tell a finding on held-out real patients within a view, it says nothing of synthetic images
    there.
    """

    split: Literal["test", "val"] = "test"
    """The real patients on whom the judge is tried. `val` while anything is still being chosen."""
    min_auroc: float = Field(default=0.70, ge=0.5, lt=1)
    """A judge whose AUROC has a lower 95 % bound below this within a view gives no number there."""
    min_images: int = Field(default=10, ge=2)
    """Images needed with the finding, and as many without, real and synthetic, for a number."""
    num_resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples of an interval: of real patients, and of synthetic images."""
    num_permutations: int = Field(default=200, ge=40)
    """How often the requested labels are shuffled to see what a generator that ignores its prompt would score."""


class Extraction(Settings):
    """What is shown to the judge, and to another extractor of features, and in which portions.

    All synthetic images, all real ones of held-out patients, and some of training patients.
    """

    num_train: int = Field(default=10_000, ge=0)
    """Training images at most, whole patients by hash: synthetic images that are nearer to these may be copies. Where
    `memorisation` is asked for, all are seen."""
    batch_size: int = Field(default=64, ge=1, le=4096)
    """Images an extractor sees at once; part of the plan, since sums may depend on it."""
    shard_size: PositiveInt = 1024
    """Images of a shard: a multiple of `batch_size`."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self


class Fidelity(Settings):
    """Distances between synthetic and held-out real images: FID and KID, beside what real patients have to each other.

    Held-out are the validation and test patients. Both sides have the mix of labels and views of the synthetic Dataset.
    """

    features: Literal["judge"] | LocalPath = "judge"
    """What sees the images: the stage's `judge`, a folder that transformers' AutoModel opens (e.g. RAD-DINO), or the
    TorchScript file of Inception."""
    num_resamples: Annotated[int, Formerly("resamples")] = Field(default=200, ge=20, le=10_000)
    """Bootstrap resamples of real patients and synthetic images, for the intervals."""
    diversity: Diversity = Diversity()
    """How precision, recall, density, coverage and MS-SSIM are computed."""


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
    benefit: tuple[Benefit, ...] = ()
    """Experiments on what synthetic images add to real ones: arms, ratios, exchange rates."""
    faithfulness: Faithfulness | None = None
    """Whether synthetic images show what they were asked for; needs a judge."""
    extraction: Extraction = Extraction()
    """Which images are seen for `faithfulness` and `fidelity`."""
    fidelity: Fidelity | None = None
    """How near synthetic images are to held-out real ones; not measured unless asked for."""
    position: Position | None = None
    """Whether findings lie where they were asked for; needs a localiser."""
    memorisation: Memorisation | None = None
    """Whether synthetic images are copies of training images; looks at all of these."""
    sweep: EvaluateSweep | None = None
    """Compare many points and recommend one. Such a stage looks at nothing else but, with `memorisation`, at copies."""

    @property
    def features(self) -> Path | None:
        """The folder of a vision model that sees the images; None where the judge does, or nothing."""
        asked = self.sweep or self.fidelity
        return asked.features if asked and isinstance(asked.features, Path) else None

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The splits whose held-out patients the images are compared with."""
        return ("val", "test") if self.sweep is None or self.sweep.test else ("val",)

    @property
    def null_splits(self) -> tuple[str, ...]:
        """The splits whose patients, who were never trained on, say how alike an image and no copy of it can be."""
        return ("val", "test") if self.sweep is None else ("val",)

    @model_validator(mode="after")
    def _has_judge(self) -> Self:
        for name in ("fidelity", "sweep"):
            asked = getattr(self, name)
            if not asked or asked.features != "judge":
                continue
            if self.inputs.judge is None:
                raise ValueError(
                    f"{name}.features is 'judge', but inputs.judge is not set: name a classifier stage there, or give "
                    f"{name}.features the folder of an AutoModel"
                )
            if self.faithfulness is None:
                tried = "{split: val}" if name == "sweep" else "{}"
                raise ValueError(f"{name}.features is 'judge', who is tried first: set faithfulness too, e.g. {tried}")
        if self.position and self.inputs.localiser is None:
            raise ValueError("position needs a localiser: name a train stage with model: localiser in inputs.localiser")
        if self.faithfulness and self.inputs.judge is None:
            raise ValueError("faithfulness needs a judge: name a classifier stage in inputs.judge")
        return self

    @model_validator(mode="after")
    def _sweep_spares_test_patients(self) -> Self:
        if self.sweep is None:
            if not isinstance(self.inputs.synthetic, str):
                raise ValueError("inputs.synthetic is a list, which is for a sweep: set `sweep`, or name one of them")
            return self
        others = [name for name in ("utility", "benefit", "fidelity", "position") if getattr(self, name)]
        if self.memorisation:
            others += [f"memorisation.{n}" for n in ("targeted", "reidentification") if getattr(self.memorisation, n)]
        if others:
            raise ValueError(f"a sweep looks at no {' and no '.join(others)}: put these in an evaluate stage after it")
        if self.faithfulness and self.faithfulness.split == "test":
            raise ValueError("a sweep chooses: try its judge on validation patients, faithfulness: {split: val}")
        return self

    @model_validator(mode="after")
    def _different(self) -> Self:
        for name, entries in (("utility", self.utility), ("benefit", self.benefit)):
            if len({entry.model_dump_json() for entry in entries}) != len(entries):
                raise ValueError(f"{name} lists the same experiment twice: remove one")
        return self
