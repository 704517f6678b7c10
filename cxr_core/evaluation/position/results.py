"""What metrics.json says of positions. Rates lie in 0..1; left and right are those of the image."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.older import named
from cxr_core.settings import Settings

PositionVerdict: TypeAlias = Literal["refused", "not_shown", "follows", "follows_less"]
_SENTENCES: Mapping[str, PositionVerdict] = {
    "not shown": "not_shown",
    "follows the prompt, but": "follows_less",
    "follows the prompt, as": "follows",
}
"""How a verdict of older files begins."""


class PositionTrial(Settings):
    """The localiser on held-out real images that have a box of one finding: its ceiling."""

    num_images: int
    """Images with a box of the finding."""
    num_patients: int
    """Their patients."""
    prior: str
    """The cell that most training boxes of the finding have."""
    guess: float | None = None
    """Hit rate of who always guesses that cell."""
    hit_rate: Interval | None = None
    """Share of images in which the middle of what was found lies in the cell of a box; over patients."""
    laterality: Interval | None = None
    """Share in which it lies on the right side, of images whose boxes are all on one; over patients."""
    num_sided: int = 0
    """These images."""
    iou: Interval | None = None
    """Intersection over union of what was found with the best fitting box, mean; over patients."""
    refused: str | None = None
    """Why the localiser says nothing of synthetic images."""


class PositionAsked(Settings):
    """Synthetic images of one request that were asked for with a place of one finding."""

    request: str
    """Name of the series; empty where there is one only."""
    num_images: int
    """Images."""
    refused: str | None = None
    """Why there are no numbers."""
    guess: float | None = None
    """Hit rate of a generator that always shows the finding in its commonest cell."""
    hit_rate: Interval | None = None
    """Share of images in which the finding was found in the region asked for; over images."""
    laterality: Interval | None = None
    """Share in which it was found on the side asked for, of those asked for with a side."""
    num_sided: int = 0
    """These images."""
    iou: Interval | None = None
    """Intersection over union of what was found with the region asked for, mean."""
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Region asked for -> region found -> images."""
    verdict: Annotated[PositionVerdict, BeforeValidator(partial(named, begins=_SENTENCES))] = "refused"
    """What the numbers say. `not_shown`: always showing the finding in its commonest cell would do as well; `follows`:
    as often as the localiser can tell; `follows_less`: less often than it finds real boxes."""


class PositionFinding(Settings):
    """One finding: the trial of the localiser, then what it says of synthetic images."""

    finding: str
    """The finding."""
    trial: PositionTrial
    """On held-out real boxes."""
    asked: tuple[PositionAsked, ...] = ()
    """A request each; empty where no image was asked for with a place of the finding."""


class PositionPicture(Settings):
    """A picture of one finding, a row each of what `rows` names."""

    finding: str
    """The finding."""
    path: str
    """PNG, relative to the stage's folder."""
    rows: tuple[str, ...]
    """What the rows show, from above."""
    num_columns: int
    """Images in a row at most."""


class PositionResult(Settings):
    """Does a finding lie where the prompt put it?"""

    localiser: str
    """sha256 of the localiser."""
    learnt_from: str
    """What it learnt from, in words."""
    split: str
    """The real patients on whom it was tried."""
    findings: tuple[PositionFinding, ...] = ()
    """What the localiser knows, in its order."""
    unknown_to_localiser: tuple[str, ...] = ()
    """Findings that were asked for with a place, but the localiser has no map for."""
    pictures: tuple[PositionPicture, ...] = ()
    """One for each finding that there is anything of."""
