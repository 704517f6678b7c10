"""Diversity's part of metrics.json."""

from cxr_core.evaluation.interval import Interval
from cxr_core.settings import Settings


class Spread(Settings):
    """How real and synthetic images cover each other: equally many of each, of each combination of labels and view.

    The intervals are over patients and over synthetic images, by random halves of both.
    """

    num_images: int
    """Of each side; one image a patient."""
    precision: Interval | None = None
    """Share of synthetic images that are near a real one, 0..1."""
    recall: Interval | None = None
    """Share of real images that are near a synthetic one, 0..1."""
    density: Interval | None = None
    """How many real images a synthetic one is near, over k; about 1 where both sides are alike."""
    coverage: Interval | None = None
    """Share of real images that have a synthetic one near, 0..1; less moved by outliers than recall."""
    not_computed: str | None = None
    """Why there are no numbers, e.g. "n = 12, 50 are needed (10 x k)"."""


class Alike(Settings):
    """How alike images are that were asked for in the same words, or that have the same labels and view."""

    num_groups: int
    """Fours of images of one prompt, or of one combination of labels and view: six pairs each."""
    ms_ssim: Interval | None = None
    """Mean over groups of the mean over their pairs, 1 for equal images; the interval resamples groups."""
    not_computed: str | None = None
    """Why there is no number."""


class FindingDiversity(Settings):
    """Synthetic images asked for with a finding, and held-out images with it."""

    finding: str
    """Alone or among others; `No Finding` alone."""
    spread: Spread
    """Against held-out images."""
    synthetic: Alike
    """Within prompts."""
    real: Alike
    """Of different patients of the same labels and view."""


class DiversityResult(Settings):
    """Is every kind of real image drawn, and does the generator repeat itself?"""

    neighbours: int
    """k."""
    headline: Spread
    """All synthetic images against all held-out patients."""
    beside_floor: Spread
    """Synthetic images against half of the held-out patients, as many as the floor has."""
    floor: Spread
    """The other half of the held-out patients against that half: what images without a fault would have."""
    num_scales: int
    """Of MS-SSIM: 5 in large images, fewer in small ones; numbers of another count do not compare."""
    size: int
    """Pixels a side at which MS-SSIM was computed."""
    synthetic: Alike
    """Within prompts."""
    real: Alike
    """Of different patients of the same labels and view; well above this, the generator repeats itself."""
    by_finding: tuple[FindingDiversity, ...] = ()
    """In the order of the vocabulary."""
