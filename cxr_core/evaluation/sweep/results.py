"""A sweep's part of metrics.json."""

from cxr_core.evaluation.diversity.results import DiversityResult, Spread
from cxr_core.evaluation.fidelity_results import FidelityResult
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


class PointResult(Settings):
    """What was measured of a point, on validation patients."""

    point: Point
    """Which."""
    fidelity: FidelityResult
    """Distances, their floor, and the copying alarm."""
    diversity: DiversityResult
    """Precision, recall, density, coverage and MS-SSIM, with their floors."""
    faithfulness: float | None = None
    """Mean AUROC of the judge's score, over the findings that it was tried on with success; 0.5 is chance."""


class TestLook(Settings):
    """The recommended point, and no other, on official test patients."""

    fidelity: FidelityResult
    """Against test patients."""
    spread: Spread
    """Against test patients."""


class SweepResult(Settings):
    """Points compared on validation patients, and the one that the rule recommends."""

    by: Measure
    """What the rule chooses by."""
    points: tuple[PointResult, ...]
    """In order."""
    chosen: str | None
    """Id of the recommended point; null: none could be."""
    rule: str
    """The rule in words, and what it found."""
    alarms: tuple[str, ...]
    """What validation and memorisation say of overfitting."""
    test: TestLook | None = None
    """Null where it was not asked for, or no point was recommended."""
    num_real_computed: int
    """Real images whose features were computed for this stage; the others were taken from the run's cache."""
    num_real_seen: int
    """Real images whose features all points shared."""
