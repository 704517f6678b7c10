"""Settings of a sweep."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cxr_core.evaluation.diversity.settings import Diversity
from cxr_core.settings import Formerly, LocalPath, Settings

Measure = Literal["kid", "fid", "precision", "recall", "density", "coverage"]
"""What a point can be chosen by; of the first two the least is best, of the others the most."""


class Copies(Settings):
    """When images that are copies raise a point's copying alarm; the stage's `memorisation` looks for them.

    Counted are images that align with a training image better than `memorisation.percentile` of validation images do.
    """

    max_share: Annotated[float | None, Formerly("at_most")] = Field(default=None, ge=0, lt=1)
    """Share of a point's images that may do so; by default what validation images have, 0.001 at the 99.9th percentile.
    Where the whole interval of the share is above, the alarm is raised."""
    rising: bool = True
    """Raise it, too, where the share is above that and its whole interval above that of an earlier checkpoint of the
    same guidance."""


class Select(Settings):
    """The rule by which one point of a sweep is recommended."""

    by: Measure = "kid"
    """The best of this measure; points with a copying alarm are never chosen."""
    copies: Copies = Copies()
    """When copies among a point's images raise that alarm."""
    split: Literal["val", "test"] = "val"
    """The real patients on whom points are compared: `val`. `test` is refused."""

    @model_validator(mode="after")
    def _not_on_test(self) -> Self:
        if self.split == "test":
            raise ValueError(
                "a sweep chooses, and what was chosen on test patients cannot be tried on them: set `split: val`, and "
                "`test: true` beside `select` to measure the chosen point, and no other, on test patients"
            )
        return self


class EvaluateSweep(Settings):
    """Compare points (each request of each synthetic Dataset) with validation patients, and recommend one of them."""

    features: Literal["judge"] | LocalPath = "judge"
    """What sees the images: the stage's `judge`, a folder that transformers' AutoModel opens (e.g. RAD-DINO), or the
    TorchScript file of Inception."""
    select: Select = Select()
    """The rule by which a point is recommended."""
    test: bool = False
    """Measure the recommended point, once, on official test patients."""
    num_resamples: Annotated[int, Formerly("resamples")] = Field(default=100, ge=20, le=10_000)
    """Bootstrap resamples of real patients and synthetic images, for the intervals."""
    diversity: Diversity = Diversity()
    """How precision, recall, density, coverage and MS-SSIM are computed."""
