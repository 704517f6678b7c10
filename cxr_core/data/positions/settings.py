"""Settings of how prompts say where a finding is."""

from typing import Literal

from cxr_core.settings import Settings


class PositionWords(Settings):
    """How a finding's bounding boxes are put into words: "mass in the upper left". A finding without a box is named
    alone. Where the whole is longer than CLIP reads, sizes are left out, then the places of the smallest boxes."""

    regions: Literal["grid", "zones"] = "grid"
    """`grid`: nine cells ("the upper left", "the middle center"), by the middle of the box. `zones`: as radiologists
    say it ("the left lower lung zone", "the right costophrenic angle", "the midline", "both lungs")."""
    sides: Literal["patient", "image"] = "patient"
    """Whose left and right: the `patient`'s, as radiologists mean it, whose left is on the right of the image; or those
    of the `image`, and then every place ends in "of the image", so that no prompt can be read both ways."""
    sizes: bool = False
    """Say small, medium or large before the finding, by the box's share of the image (see `phrases.size_of`)."""
