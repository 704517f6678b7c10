"""The form of the judge's calibration in metrics.json. Scores and shares lie in 0..1."""

from typing import Literal

from cxr_core.evaluation.group_results import GroupResult
from cxr_core.evaluation.interval import Interval
from cxr_core.settings import Settings


class Bin(Settings):
    """Images of similar scores: a tenth of all, in the order of the score."""

    num_images: int
    """Images."""
    score: float
    """Mean of the judge's scores."""
    share: float
    """Share of images with the finding."""


class Calibration(Settings):
    """The judge's scores of one finding as probabilities, on one set of images."""

    num_with: int
    """Images with the finding; of synthetic ones, asked for with it."""
    num_without: int
    """Images without."""
    auroc: Interval
    """Of the scores; interval over patients, or over synthetic images."""
    brier: Interval
    """Mean squared difference of score and truth (Brier 1950); 0 is best."""
    ece: Interval
    """Expected calibration error: mean distance of score and share in ten bins of equally many images."""
    ece_floor: float
    """What the same scores would have if they were true probabilities: chance alone."""
    bins: tuple[Bin, ...]
    """The reliability diagram."""


class CalibratedFinding(Settings):
    """One finding."""

    finding: str
    """Its name."""
    real: Calibration | None = None
    """On held-out real patients."""
    real_not_computed: str | None = None
    """Why there is none."""
    synthetic: Calibration | None = None
    """On synthetic images, the prompt being the truth."""
    synthetic_not_computed: str | None = None
    """Why there is none, e.g. since the judge failed its trial."""


class JudgedGroup(GroupResult):
    """The judge on one group of held-out real patients, of views that have images both with the finding and without:
    for whom its word is worth less."""

    auroc: Interval | None = None
    """Views matched within the group; over patients."""


class CalibrationResult(Settings):
    """Are the judge's scores probabilities, and for whom?"""

    split: Literal["test", "val"]
    """The real patients."""
    unweighted: bool
    """The judge was trained with rare findings weighing more, which was taken back from its scores."""
    findings: tuple[CalibratedFinding, ...]
    """What the judge knows."""
    groups: tuple[JudgedGroup, ...]
    """Of held-out real patients."""
