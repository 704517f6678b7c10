"""The form of a number with its interval, in metrics.json."""

from cxr_core.settings import Settings


class Interval(Settings):
    """A number with its 95 % interval: by a bootstrap, where nothing else is said."""

    value: float
    """The number itself, on all test images."""
    low: float
    """2.5th percentile of the resamples."""
    high: float
    """97.5th percentile of the resamples."""
