"""What metrics.json says of one group of real patients and one finding, whatever is measured there."""

from typing import Literal

from cxr_core.settings import Settings


class GroupResult(Settings):
    """Which patients, and how many; or why nothing was measured."""

    by: Literal["sex", "age", "view"]
    """What groups them."""
    group: str
    """Which group, e.g. "F" or "40-64"."""
    finding: str
    """The finding."""
    num_with: int
    """Images of the group with it that are looked at."""
    num_without: int
    """Images of the group without, likewise."""
    num_patients: int
    """Patients of the group."""
    not_computed: str | None = None
    """Why there are no numbers."""
