"""Settings of diversity."""

from typing import Annotated

from pydantic import Field, PositiveInt

from cxr_core.settings import Formerly, Settings


class Diversity(Settings):
    """Precision, recall, density and coverage, and how alike images of one prompt are (MS-SSIM)."""

    neighbours: PositiveInt = 5
    """k: an image reaches as far as its k-th nearest neighbour of its own side."""
    num_ms_ssim_groups: Annotated[int, Formerly("fours")] = Field(default=100, ge=0)
    """Groups of four images of one prompt, at most, that are compared by MS-SSIM, all six pairs; every prompt first."""
    num_resamples: Annotated[int, Formerly("resamples")] = Field(default=200, ge=20, le=10_000)
    """Bootstrap resamples of these groups for the interval of MS-SSIM, and random halves of patients and of synthetic
    images for those of the others."""
