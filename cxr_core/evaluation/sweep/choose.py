"""The rule by which a point is recommended, and what warns of overfitting."""

from collections.abc import Sequence

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.results import PointResult
from cxr_core.evaluation.sweep.settings import Measure

_LEAST_IS_BEST = ("kid", "fid")


def value_of(result: PointResult, by: Measure) -> Interval | None:
    """A point's value of a measure; None where it was not computed."""
    found: Interval | None = getattr(
        result.fidelity.headline if by in _LEAST_IS_BEST else result.diversity.headline, by
    )
    return found


def choose(results: Sequence[PointResult], by: Measure) -> tuple[PointResult | None, str]:
    """The best point without a copying alarm, the first of equal ones, and the rule with what it found, in words."""
    best_is = "least" if by in _LEAST_IS_BEST else "most"
    name = by.upper() if by in _LEAST_IS_BEST else by
    rule = f"Rule: the {best_is} {name} on validation patients, of points without a copying alarm."
    known = [(value, result) for result in results if (value := value_of(result, by)) is not None]
    if not known:
        reason = results[0].fidelity.headline.not_computed or results[0].diversity.headline.not_computed
        return None, f"{rule} Nothing is recommended: {name} could not be computed ({reason})."
    safe = [(value, result) for value, result in known if not result.alarm]
    if not safe:
        return None, f"{rule} Nothing is recommended: all {len(known)} points have a copying alarm."
    sign = 1 if best_is == "least" else -1
    mine, best = min(safe, key=lambda pair: sign * pair[0].value)
    others = [value for value, result in safe if result is not best]
    return best, f"{rule} Recommended: {best.point.words}, {name} {mine.value:.3g}.{_beside(mine, others)}"


def _beside(mine: Interval, others: Sequence[Interval]) -> str:
    """How many other points are not shown to be worse."""
    if not others:
        return ""
    num = sum(other.low <= mine.high and mine.low <= other.high for other in others)
    if not num:
        return " The intervals of all others lie apart from its own."
    words = "1 other point" if num == 1 else f"{num} other points"
    return f" Not shown to be worse, since its interval overlaps theirs: {words}."


def alarms(results: Sequence[PointResult], chosen: PointResult | None, rises: Sequence[str]) -> tuple[str, ...]:
    """What says overfitting: copying, later checkpoints that are farther from validation patients, rising losses.

    `rises` are what train stages say of their validation losses, in words.
    """
    copies = [f"{r.point.words}: {words.removeprefix('Alarm: ')}" for r in results for words in _copying(r)]
    later = [
        f"{r.point.words} is farther from validation patients than {chosen.point.words}, an earlier checkpoint of "
        "the same guidance: training has gone on for too long"
        for r in results
        if chosen and _is_past(chosen, r)
    ]
    return (*copies, *later, *rises)


def _copying(result: PointResult) -> list[str]:
    """What raises a point's copying alarm, in words."""
    said = [result.fidelity.alarm_words] if result.fidelity.alarm else []
    return [*said, result.copies.words] if result.copies and result.copies.alarm else said


def _is_past(chosen: PointResult, other: PointResult) -> bool:
    """Whether a later checkpoint, drawn alike, has a KID whose interval lies above that of the chosen point."""
    mine, theirs = chosen.fidelity.headline.kid, other.fidelity.headline.kid
    if mine is None or theirs is None or not other.point.is_after(chosen.point):
        return False
    return theirs.low > mine.high
