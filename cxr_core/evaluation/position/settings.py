"""Settings of the measurement of positions."""

from typing import Literal

from pydantic import Field

from cxr_core.settings import Settings


class Position(Settings):
    """Does a finding lie where the prompt put it? Judged by a localiser, which is first tried on held-out real boxes.

    Where it does not find a finding there, it says nothing of synthetic images.
    """

    split: Literal["test", "val"] = "test"
    """The real patients on whose boxes the localiser is tried. `val` while anything is still being chosen."""
    min_images: int = Field(default=20, ge=2)
    """Images needed with a box of the finding, and synthetic ones that were asked for with a place, for a number."""
    min_hit_rate: float = Field(default=0.5, gt=0, lt=1)
    """A localiser whose hit rate on real boxes has a lower 95 % bound below this, or not above what always guessing the
    commonest cell has, gives no number."""
    num_resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples of an interval: of real patients, and of synthetic images."""
    num_columns: int = Field(default=6, ge=1, le=16)
    """Images of each row of the pictures: real, asked for without a place, asked for with one."""
