"""Settings of diversity."""

from pydantic import Field, PositiveInt

from cxr_core.settings import Settings


class Diversity(Settings):
    """Precision, recall, density and coverage, and how alike images of one prompt are (MS-SSIM)."""

    neighbours: PositiveInt = 5
    """k: an image reaches as far as its k-th nearest neighbour of its own side."""
    prompts: int = Field(default=100, ge=0)
    """Prompts, at most, whose images are compared with each other by MS-SSIM: four images each, all six pairs."""
    resamples: int = Field(default=200, ge=20, le=10_000)
    """Bootstrap resamples of prompts for the interval of MS-SSIM."""
