"""The form of a benefit experiment in metrics.json. AUROC lies in 0..1; null numbers have their reason beside them."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cxr_core.evaluation.group_results import GroupResult
from cxr_core.evaluation.interval import Interval
from cxr_core.settings import Settings


class BenefitArm(Settings):
    """What the classifiers of one arm learnt from."""

    arm: str
    """Its name, e.g. replace-50."""
    num_real: int
    """Real training images."""
    num_real_patients: int
    """Their patients."""
    num_synthetic: int
    """Synthetic training images."""
    num_unlike: int
    """Of these, images for which there was none with the findings and view of the image whose place they take."""
    num_with: dict[str, int]
    """Finding -> training images with it."""
    generator_saw: str | None = None
    """What the generator of its synthetic images had learnt from, in words; null of an arm without any."""
    final_loss: tuple[float, ...] = ()
    """Mean loss of the last tenth of the steps, a number a seed."""
    not_run: str | None = None
    """Why there are no classifiers."""


class TestedFinding(Settings):
    """The real test images that tell one finding."""

    finding: str
    """Its name."""
    num_with: int
    """Test images with it."""
    num_without: int
    """Test images without, of the views that images with it have."""
    num_patients_with: int
    """Patients of images with it."""
    view_only: Interval | None = None
    """AUROC of the view alone, as the real arm's training images have it."""
    not_computed: str | None = None
    """Why there are no numbers, e.g. "7 test images with Hernia, 20 are needed"."""


class ArmAuroc(Settings):
    """One arm on one finding."""

    arm: str
    """The arm."""
    finding: str
    """A finding, or macro: the mean over the findings computed."""
    auroc: Interval
    """Mean over the seeds; interval over training seeds and test patients."""
    seeds: tuple[float, ...]
    """Each seed by itself."""


class Comparison(Settings):
    """One arm's AUROC minus another's, paired by seed and patient."""

    arm: str
    """The arm."""
    against: str
    """What is subtracted."""
    finding: str
    """A finding, or macro."""
    difference: Interval
    """Interval over training seeds and test patients."""
    p: float
    """Two-sided, from the resamples' standard deviation."""
    p_holm: float | None
    """The same corrected by Holm's method over all comparisons but the primary one, whose is null."""


class ExchangeRate(Settings):
    """How many real images one synthetic image of an arm was worth, read from the learning curve of real images."""

    arm: str
    """An arm with synthetic images."""
    finding: str
    """A finding, or macro."""
    rate: Interval | None = None
    """Real images per synthetic one. Negative: the classifier would have been better without them."""
    bound: Literal["at_least", "at_most"] | None = None
    """The arm is above or below the whole curve, so that the number is a bound and not a value."""
    low_is_bound: bool = False
    """The interval's lower end lies at an end of the curve: it may be lower."""
    high_is_bound: bool = False
    """Its upper end, likewise: it may be higher."""
    not_computed: str | None = None
    """Why there is no rate."""


class GroupAuroc(GroupResult):
    """The arms of the primary comparison (or `real` alone) on one group of real test patients."""

    aurocs: Mapping[str, Interval] = Field(default_factory=dict)
    """Arm -> AUROC."""
    difference: Interval | None = None
    """The primary arm minus what it is compared with."""


class ByLabels(Settings):
    """All numbers of an experiment by one kind of labels of the test images."""

    labels: Literal["as recorded", "adjudicated"]
    """`as recorded`: as the Dataset has them; those of ChestX-ray14 are text-mined from reports."""
    num_images: int
    """Test images that have such labels."""
    num_patients: int
    """Their patients."""
    findings: tuple[TestedFinding, ...] = ()
    """In the order of the settings."""
    primary: Comparison | None = None
    """The comparison that the experiment was made for."""
    aurocs: tuple[ArmAuroc, ...] = ()
    """Arm by arm."""
    comparisons: tuple[Comparison, ...] = ()
    """Every arm but those of the curve against `real`, without the primary one."""
    exchange: tuple[ExchangeRate, ...] = ()
    """Of each arm with synthetic images; empty where no curve was asked for."""
    groups: tuple[GroupAuroc, ...] = ()
    """By sex, age and view."""


class BenefitResult(Settings):
    """One benefit experiment."""

    findings: tuple[str, ...]
    """What was told."""
    split: Literal["test", "val"]
    """The real patients on whom it was tested."""
    generator_saw: Literal["any", "same_n"]
    """Whether arms were held to real images that their generator saw."""
    match_views: bool
    """Whether test images were weighted so that the view alone tells nothing."""
    preset: str
    """Size of the classifier."""
    image_size: int
    """Pixels a side that it saw."""
    steps: int
    """Optimiser steps of every arm."""
    seeds: tuple[int, ...]
    """Training seeds."""
    num_resamples: int
    """Resamples behind each interval."""
    arms: tuple[BenefitArm, ...]
    """In the order of the settings."""
    by_labels: tuple[ByLabels, ...]
    """As recorded, and adjudicated where such labels were given."""

    @property
    def curve(self) -> dict[str, int]:
        """Arms of real images alone -> how many, rising."""
        alone = [arm for arm in self.arms if not arm.num_synthetic and arm.not_run is None]
        return {arm.arm: arm.num_real for arm in sorted(alone, key=lambda arm: arm.num_real)}
