"""The rule by which a point is recommended, and what warns of overfitting."""

from collections.abc import Sequence
from typing import Literal

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.results import PointResult, SweepAlarm
from cxr_core.evaluation.sweep.settings import Measure

LEAST_IS_BEST = ("kid", "fid")
"""Measures of which less is better."""


def value_of(result: PointResult, by: Measure) -> Interval | None:
    """A point's value of a measure; None where it was not computed."""
    found: Interval | None = getattr(result.fidelity.headline if by in LEAST_IS_BEST else result.diversity.headline, by)
    return found


def choose(results: Sequence[PointResult], by: Measure) -> PointResult | None:
    """The best point without a copying alarm, the first of equal ones; None where there is none."""
    known = [(value, result) for result in results if (value := value_of(result, by)) is not None]
    sign = 1 if by in LEAST_IS_BEST else -1
    safe = [(sign * value.value, result) for value, result in known if not result.alarm]
    return min(safe, key=lambda pair: pair[0])[1] if safe else None


def not_worse(results: Sequence[PointResult], chosen: PointResult, by: Measure) -> list[PointResult]:
    """Other points without a copying alarm whose interval overlaps that of the chosen one."""
    mine = value_of(chosen, by)
    others = [(value_of(each, by), each) for each in results if each.point.id != chosen.point.id and not each.alarm]
    return [each for value, each in others if value and mine and value.low <= mine.high and mine.low <= value.high]


def alarms(
    results: Sequence[PointResult], chosen: PointResult | None, rises: Sequence[SweepAlarm]
) -> tuple[SweepAlarm, ...]:
    """What says overfitting: copying, later checkpoints that are farther from validation patients, rising losses."""
    copying = [SweepAlarm(kind=kind, point=each.point.id) for each in results for kind in _copying(each)]
    past = [SweepAlarm(kind="past", point=each.point.id) for each in results if chosen and _is_past(chosen, each)]
    return (*copying, *past, *rises)


def _copying(result: PointResult) -> list[Literal["distance", "copies"]]:
    """What raises a point's copying alarm."""
    raised: dict[Literal["distance", "copies"], bool | None] = {
        "distance": result.fidelity.alarm,
        "copies": result.copies.alarm if result.copies else None,
    }
    return [kind for kind, is_raised in raised.items() if is_raised]


def _is_past(chosen: PointResult, other: PointResult) -> bool:
    """Whether a later checkpoint, drawn alike, has a KID whose interval lies above that of the chosen point."""
    mine, theirs = chosen.fidelity.headline.kid, other.fidelity.headline.kid
    if mine is None or theirs is None or not other.point.is_after(chosen.point):
        return False
    return theirs.low > mine.high
