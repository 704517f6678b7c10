"""A sweep's part of metrics.json."""

from typing import Literal

from cxr_core.evaluation.diversity.results import DiversityResult, Spread
from cxr_core.evaluation.fidelity_results import FidelityResult
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.memorisation.results import CopyPair
from cxr_core.evaluation.older import Measured
from cxr_core.evaluation.sweep.settings import Measure
from cxr_core.settings import Settings


class Point(Settings):
    """One series of images of one synthetic Dataset, and how it was drawn, as far as the Dataset says so."""

    id: str
    """`p00`, `p01` ... in the order of the config, then of the Dataset."""
    stage: str
    """Name of the Dataset's folder."""
    series: str
    """Name of the series in the index; "" where there is one only."""
    num_images: int
    """Its images."""
    model: str
    """sha256 of the weights; "" where unknown."""
    step: int | None
    """Training step of the checkpoint; null where unknown."""
    guidance: float | None
    """Classifier-free guidance scale."""
    steps: int | None
    """Denoising steps."""
    scheduler: str
    """The sampler."""

    @property
    def words(self) -> str:
        """For people: "candidates, step 2000, guidance 3"."""
        step = "" if self.step is None else f", step {self.step:,}"
        guidance = "" if self.guidance is None else f", guidance {self.guidance:g}"
        return f"{self.stage}{step}{guidance}" if step or guidance else f"{self.stage} {self.series}".strip()

    def is_after(self, other: "Point") -> bool:
        """Whether it is a later checkpoint of the same training, drawn alike."""
        same = (self.stage, self.guidance) == (other.stage, other.guidance)
        return same and self.step is not None and other.step is not None and self.step > other.step


class Copied(Measured):
    """How many of a point's images are nearer to a training image than images of patients who were never trained on."""

    sentences = frozenset({"words"})

    percentile: float
    """Of validation images, beyond which an image is called a copy."""
    num_train: int
    """Training images that were searched: all."""
    share: Interval | None = None
    """Share of the point's images beyond it, by aligned pixels, with its interval over patients and images."""
    floor: float
    """What validation images have themselves."""
    at_most: float
    """What the rule lets pass."""
    recall: float
    """The smallest share that was found of any kind of planted copies."""
    pairs: tuple[CopyPair, ...] = ()
    """The images that align best, each with its training image."""
    alarm: bool | None = None
    """By the rule of `select.copies`; null where there is no share."""
    not_computed: str | None = None
    """Why there is no share."""
    risen_from: str | None = None
    """Id of an earlier checkpoint whose share lies below with its whole interval, where that raised the alarm."""


class PointResult(Settings):
    """What was measured of a point, on validation patients."""

    point: Point
    """Which."""
    fidelity: FidelityResult
    """Distances, their floor, and the copying alarm."""
    diversity: DiversityResult
    """Precision, recall, density, coverage and MS-SSIM, with their floors."""
    copies: Copied | None = None
    """Copies among its images; null where the stage has no `memorisation`."""
    faithfulness: float | None = None
    """Mean AUROC of the judge's score, over the findings that it was tried on with success; 0.5 is chance."""

    @property
    def alarm(self) -> bool:
        """Whether distances or copies among its images raise the copying alarm."""
        return bool(self.fidelity.alarm or (self.copies and self.copies.alarm))


class TestResult(Settings):
    """The recommended point, and no other, on official test patients."""

    fidelity: FidelityResult
    """Against test patients."""
    spread: Spread
    """Against test patients."""


class SweepAlarm(Settings):
    """Something that says overfitting."""

    kind: Literal["distance", "copies", "past", "loss"]
    """distance: a point's images are nearer to training patients than chance explains; copies: too many of them are
    like training images; past: a later checkpoint is farther from validation patients than the recommended one; loss:
    the validation loss of a train stage rises."""
    point: str | None = None
    """Id of the point; null of a loss."""
    stage: str | None = None
    """The train stage, of a loss."""
    rise: float | None = None
    """Share by which its newest loss lies above its lowest."""
    best_step: int | None = None
    """Training step of the lowest."""


class SweepResult(Measured):
    """Points compared on validation patients, and the one that the rule recommends."""

    sentences = frozenset({"rule", "alarm_rule"})

    by: Measure
    """What the rule chooses by."""
    points: tuple[PointResult, ...]
    """In order."""
    chosen: str | None
    """Id of the recommended point; null: none could be."""
    rising: bool | None = None
    """Whether a share of copies that rises with training steps raises the alarm; null where none was looked for."""
    alarms: tuple[SweepAlarm | str, ...]
    """What validation and memorisation say of overfitting; sentences in older files."""
    test: TestResult | None = None
    """Null where it was not asked for, or no point was recommended."""
    num_real_computed: int
    """Real images whose features were computed for this stage; the others were taken from the run's cache."""
    num_real_seen: int
    """Real images whose features all points shared."""
