"""The form of metrics.json: what an evaluate stage found, for the report and for programs.

Where a number could not be had, its place holds null and `not_run` says why, e.g. "real training images with Edema: 49
of 500". Accuracy and AUROC lie in 0..1.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, ValidationError

from cxr_core.evaluation.benefit.results import BenefitResult
from cxr_core.evaluation.calibration.results import CalibrationResult
from cxr_core.evaluation.diversity.results import DiversityResult
from cxr_core.evaluation.fidelity_results import Coverage as Coverage
from cxr_core.evaluation.fidelity_results import Distance as Distance
from cxr_core.evaluation.fidelity_results import Extractor as Extractor
from cxr_core.evaluation.fidelity_results import FidelityResult as FidelityResult
from cxr_core.evaluation.fidelity_results import Missing as Missing
from cxr_core.evaluation.fidelity_results import Resize as Resize
from cxr_core.evaluation.fidelity_results import Side as Side
from cxr_core.evaluation.interval import Interval as Interval
from cxr_core.evaluation.memorisation.results import MemorisationResult
from cxr_core.evaluation.older import named
from cxr_core.evaluation.position.results import PositionResult
from cxr_core.evaluation.sweep.results import SweepResult
from cxr_core.models.training_data import ImageCounts
from cxr_core.runs.door import BadFileError, below
from cxr_core.settings import Settings

FILE = "metrics.json"

Arm = Literal["real", "mixed", "half", "doubled"]
"""Training images: n real; n/2 real and n/2 synthetic; the same n/2 real alone for as many epochs; and these shown
twice an epoch, for as many optimiser steps as n."""


class Scores(Settings):
    """How well something tells the finding on the test images."""

    accuracy: Interval
    """Share of test images told rightly; half of them have the finding."""
    auroc: Interval
    """Area under the ROC curve."""


class SeedScores(Scores):
    """One trained classifier. Its intervals are over test patients."""

    seed: int
    """Of the classifier's start, order and augmentation."""
    final_loss: float
    """Mean cross-entropy of the training images in the last epoch's optimiser steps."""


class ViewScores(Settings):
    """The same classifiers on the test images of one view."""

    view: Literal["AP", "PA"]
    """The view."""
    num_images: int
    """Test images of this view."""
    scores: Scores | None = None
    """Mean over the seeds, with intervals as for all test images; null: too few images."""


class ArmResult(Settings):
    """One row of the utility table."""

    arm: Arm
    """Which training images."""
    num_real: int
    """Different real training images, both classes together."""
    num_synthetic: int
    """Synthetic training images, both classes together."""
    num_real_patients: int
    """Patients of the real training images."""
    generator_saw: tuple[ImageCounts, ...] | None = None
    """Of an arm with synthetic images: real images and patients with the finding that their generator learnt from; one
    entry for each Dataset in the chain of trainings, the last training first. Null: unknown."""
    not_run: str | None = None
    """Why there are no numbers."""
    classifier: Scores | None = None
    """Mean over the seeds; intervals over training seeds and test patients (two-level bootstrap)."""
    seeds: tuple[SeedScores, ...] = ()
    """Each seed by itself."""
    view_only: Scores | None = None
    """The same from the view alone, fitted on this arm's training images: what the classifier must beat."""
    by_view: tuple[ViewScores, ...] = ()
    """AP and PA apart; of the protocol `repaired` only."""


class TestSet(Settings):
    """The real images that every arm of an experiment is judged on."""

    num_images: int
    """Both classes together, equally many of each."""
    num_patients: int
    """Patients of these images."""
    num_shared_patients: int = 0
    """Those of them who are in training too; with the protocol `repaired`, none."""
    views: dict[str, dict[str, int]]
    """View -> {"with": images with the finding, "without": images without}."""


class UtilityResult(Settings):
    """One experiment: can a classifier learn the finding from synthetic images?"""

    finding: str
    """The finding told."""
    negatives: str
    """What it was told from."""
    rule: Literal["any", "only"]
    """Which images have the finding: `any` with it among others, or those with it `only`."""
    protocol: Literal["repaired", "as_written"]
    """How images were chosen; `as_written` leaks."""
    match_views: bool
    """Whether each image with the finding stands beside one without it of the same view."""
    counts: Literal["in_all", "per_class"]
    """Whether num_images, as asked for, is of both classes together or of each."""
    num_images: int
    """n as asked for."""
    image_size: int
    """Pixels a side that the classifier saw."""
    augment: Literal["study", "none"]
    """Of training images, and with the protocol `as_written` of test images too."""
    epochs: int
    """Passes over an arm's images."""
    available: dict[str, int]
    """Images that the cohorts were drawn from, e.g. {"real train with": 1378}."""
    not_run: str | None = None
    """Why there is no arm at all: too few test images."""
    test: TestSet | None = None
    """What all arms are judged on."""
    arms: tuple[ArmResult, ...] = ()
    """In the order real, mixed, half, doubled."""
    value_of_synthetic: Scores | None = None
    """Mixed minus doubled, paired by seed and patient: what n/2 synthetic images added to n/2 real ones at equal
    optimiser steps. The first of the two to look at."""
    value_at_equal_epochs: Scores | None = None
    """Mixed minus half, likewise: at equal epochs, so that more images also mean more steps."""

    @property
    def is_leaky(self) -> bool:
        """Whether patients can be in training and in test."""
        return self.protocol == "as_written"


class Grid(Settings):
    """A picture: real images in the upper row, synthetic ones in the lower."""

    finding: str
    """What they all have; alone, where there are enough such images."""
    path: str | None
    """PNG, relative to the stage's folder; null if there was nothing to show."""
    num_columns: int
    """Images in each row."""


class Published(Settings):
    """A row of the study's table, to be read beside ours and not against it."""

    arm: Arm
    """Which training images."""
    finding: str
    """The finding told from No Finding."""
    num_real: int
    """Real training images."""
    num_synthetic: int
    """Synthetic training images."""
    num_test: int
    """Test images."""
    accuracy: float
    """As printed, of one run, without an interval."""


STUDY_SOURCE = "Malik and Humair (2023), arXiv 2305.18927, Table I"
STUDY_CAVEAT = (
    "One run each; its code takes the test images from the training list, splits by listing order and not by patient, "
    "and augments the test images too, so these rows are likely too high."
)
STUDY = (
    Published(arm="real", finding="Edema", num_real=1000, num_synthetic=0, num_test=300, accuracy=0.81),
    Published(arm="mixed", finding="Edema", num_real=500, num_synthetic=500, num_test=300, accuracy=0.73),
)


class Compared(Settings):
    """One of the Datasets compared."""

    digest: str
    """Its digest."""
    num_images: int
    """Its images."""
    size: int
    """Pixels a side."""
    drawn_by: tuple[str, ...] = ()
    """Of the synthetic one: how each series was drawn, in words; empty where the Dataset does not say."""
    num_barred: int = 0
    """Of the real one: official test patients who are in no test, since the generator learnt from them for their
    bounding boxes."""


class Histogram(Settings):
    """How the judge's scores are distributed: images in each of 20 equal bins of 0..1."""

    having: tuple[int, ...]
    """Images with the finding; of synthetic ones, those asked for with it."""
    lacking: tuple[int, ...]
    """Images without."""


class Trial(Settings):
    """The judge on held-out real images of one finding, of all views or within one."""

    within: str
    """`pooled` (all views), a view, or `unknown view`."""
    num_with: int
    """Images with the finding, alone or among others."""
    num_without: int
    """Images without."""
    num_patients: int
    """Patients of all these images."""
    num_patients_with: int
    """Patients of those with the finding."""
    auroc: Interval | None = None
    """Of the judge's score; over patients. Null where there are too few images."""
    view_only: Interval | None = None
    """The same from the view alone, in `pooled`; within one view it knows nothing."""
    refused: str | None = None
    """Why the judge says nothing of synthetic images here."""
    histogram: Histogram
    """Of its scores."""


PromptVerdict: TypeAlias = Literal[
    "refused", "reversed", "not_shown", "not_compared", "exaggerated", "fainter", "not_told_apart"
]
_SENTENCES: Mapping[str, PromptVerdict] = {
    "reversed": "reversed",
    "not shown": "not_shown",
    "there; not compared": "not_compared",
    "exaggerated": "exaggerated",
    "there, but fainter": "fainter",
    "there, not told": "not_told_apart",
}
"""How a verdict of older files begins."""


class PromptContrast(Settings):
    """Synthetic images asked for with one finding against those asked for without, of all views or within one."""

    within: str
    """`pooled` (all views), a view, or `unknown view`."""
    num_with: int
    """Synthetic images asked for with the finding, alone or among others."""
    num_without: int
    """Synthetic images asked for without."""
    refused: str | None = None
    """Why there are no numbers."""
    auroc: Interval | None = None
    """Of the judge's score; over images."""
    chance: Interval | None = None
    """The mean and 95 % range of the same with requested labels shuffled among the images of one view."""
    real: Interval | None = None
    """The same contrast on held-out real images, weighted to the requested mix of labels and views; over patients."""
    real_refused: str | None = None
    """Why `real` is null though there is an AUROC."""
    matched: Interval | None = None
    """`auroc` of the synthetic images whose labels and view held-out real images have too: what `real` is compared
    with."""
    exaggerated: bool | None = None
    """`matched` is above `real`: the finding is clearer than in life."""
    overlap: bool | None = None
    """The intervals of `matched` and `real` overlap."""
    verdict: Annotated[PromptVerdict, BeforeValidator(partial(named, begins=_SENTENCES))]
    """What the numbers say. `reversed`: clearer in images asked for without it; `not_shown`: shuffled prompts explain
    it. Else it is there: `not_compared` with real images, `exaggerated`, `fainter`, or `not_told_apart` from these."""
    histogram: Histogram | None = None
    """Of the judge's scores of synthetic images."""


class JudgedFinding(Settings):
    """One finding: the judge's trial, then what it says of synthetic images."""

    finding: str
    """The finding."""
    trial: tuple[Trial, ...]
    """`pooled`, then view by view."""
    synthetic: tuple[PromptContrast, ...] = ()
    """In the order of the trial; empty where no synthetic image was asked for with the finding."""


class FaithfulnessResult(Settings):
    """Do synthetic images show the findings they were asked for?"""

    split: Literal["test", "val"]
    """The real patients on whom the judge was tried."""
    min_auroc: float
    """What the lower bound of its AUROC had to reach within a view."""
    min_images: int
    """Images that were needed with the finding, and as many without."""
    num_resamples: int
    """Bootstrap resamples of each interval."""
    num_permutations: int
    """Shuffles of the requested labels."""
    num_real: int
    """Held-out real images."""
    num_real_patients: int
    """Their patients."""
    num_train: int
    """Real training images that the view-only baseline was fitted on; 0: it was fitted on the held-out ones, which
    favours it."""
    num_synthetic: int
    """Synthetic images."""
    findings: tuple[JudgedFinding, ...] = ()
    """What the judge knows, in its order."""
    unknown_to_judge: tuple[str, ...] = ()
    """Findings that were asked for, but the judge has no output for."""
    not_requested: tuple[str, ...] = ()
    """Findings that the judge knows, but no synthetic image was asked for with."""
    not_in_vocabulary: tuple[str, ...] = ()
    """Outputs of the judge that the Datasets have no label for: they cannot be tried."""
    num_covered: int
    """Synthetic images whose labels and view some held-out real image has too."""
    missing: dict[str, int]
    """Combinations of labels and view that held-out real images lack -> synthetic images of them, most first."""

    @property
    def passes(self) -> bool:
        """Whether the judge passed its trial for any finding at all."""
        return any(trial.refused is None for each in self.findings for trial in each.trial)


class Metrics(Settings):
    """The whole of metrics.json."""

    format: Literal[1] = 1
    """Version of this form."""
    real: Compared
    """The real Dataset."""
    synthetic: Compared
    """The synthetic Dataset; of a sweep all of them together."""
    utility: tuple[UtilityResult, ...] = ()
    """In the order of the settings."""
    benefit: tuple[BenefitResult, ...] = ()
    """In the order of the settings."""
    grids: tuple[Grid, ...] = ()
    """In the order of the settings."""
    faithfulness: FaithfulnessResult | None = None
    """Whether synthetic images show what they were asked for."""
    before_gate: FaithfulnessResult | None = None
    """The same of a sample of first draws, which no gate chose among; null for a Dataset without a gate."""
    calibration: CalibrationResult | None = None
    """Whether the judge's scores are probabilities, and for whom; null where no judge was asked."""
    fidelity: FidelityResult | None = None
    """Null if it was not asked for."""
    position: PositionResult | None = None
    """Whether findings lie where they were asked for; null if that was not asked for."""
    diversity: DiversityResult | None = None
    """How synthetic and real images cover each other; measured with fidelity."""
    sweep: SweepResult | None = None
    """Points compared, and the one recommended; such a stage has nothing else."""
    memorisation: MemorisationResult | None = None
    """Whether synthetic images are copies of training images; null if it was not asked for."""
    published: tuple[Published, ...] = STUDY
    """The study's rows."""
    published_source: str = STUDY_SOURCE
    """Where they are from."""
    published_caveat: str = STUDY_CAVEAT
    """What to know before comparing."""


def read_metrics(stage_folder: Path) -> Metrics:
    """metrics.json of a finished evaluate stage. Raises FileNotFoundError, or BadFileError naming what is wrong."""
    try:
        return Metrics.model_validate_json(below(stage_folder, 1).read(FILE))
    except ValidationError as error:
        raise BadFileError(f"not the metrics of an evaluate stage: {error}", stage_folder / FILE) from error
