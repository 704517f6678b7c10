"""The copying alarm of a sweep's points: training images among their images, and more of them with more steps."""

from collections.abc import Sequence

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.memorisation.results import MemorisationResult
from cxr_core.evaluation.sweep.results import Copied, Point
from cxr_core.evaluation.sweep.settings import Copies

_NUM_PAIRS = 5
"""Pairs that are kept of a point."""
_BY_DISTANCE = (
    "A point raises the copying alarm where FID says that its images are nearer to training patients than to "
    "validation patients by more than the width of the floor's interval"
)


def judge_copies(found: Sequence[tuple[Point, MemorisationResult]], rule: Copies) -> list[Copied]:
    """What the search for copies says of each point, and whether it raises the alarm by the rule."""
    return [_judge(point, result, found, rule) for point, result in found]


def alarm_rule(percentile: float | None, rule: Copies) -> str:
    """What raises the alarm, in words; `percentile` is None where no copies were looked for."""
    if percentile is None:
        return f"{_BY_DISTANCE}. Copies among the images themselves were not looked for (`memorisation`)."
    most = _percent(_at_most(percentile, rule))
    rising = f", or is above {most} and lies above that of an earlier checkpoint of the same guidance"
    return (
        f"{_BY_DISTANCE}; or where the share of its images that align with a training image better than "
        f"{percentile:g} % of validation images do lies above {most} with its whole interval"
        f"{rising if rule.rising else ''}."
    )


def _judge(
    point: Point, result: MemorisationResult, found: Sequence[tuple[Point, MemorisationResult]], rule: Copies
) -> Copied:
    alarm, words = _alarm(point, result, found, rule)
    return Copied(
        percentile=result.percentile,
        num_train=result.num_train,
        share=result.pixels.share_above,
        floor=_floor(result.percentile),
        at_most=_at_most(result.percentile, rule),
        recall=result.recall,
        pairs=result.pairs[:_NUM_PAIRS],
        alarm=alarm,
        words=words,
    )


def _alarm(
    point: Point, result: MemorisationResult, found: Sequence[tuple[Point, MemorisationResult]], rule: Copies
) -> tuple[bool | None, str]:
    share, most = result.pixels.share_above, _at_most(result.percentile, rule)
    if share is None:
        return None, f"Whether its images are copies cannot be told: {result.pixels.not_computed}."
    said = f"{_share(share)} of its images align with a training image better than {result.percentile:g} % of "
    said += "validation images do"
    if share.low > most:
        return True, f"Alarm: {said}, more than {_percent(most)}."
    if rule.rising and share.value > most and (before := _passed(point, share, found)):
        return True, f"Alarm: {said}, more than of {before}, an earlier checkpoint."
    return False, f"No alarm: {said}."


def _passed(point: Point, share: Interval, found: Sequence[tuple[Point, MemorisationResult]]) -> str | None:
    """An earlier checkpoint, drawn alike, whose share lies below with its whole interval; None where there is none."""
    shares = ((other, result.pixels.share_above) for other, result in found if point.is_after(other))
    return next((f"{other.words} ({_share(its)})" for other, its in shares if its and its.high < share.low), None)


def _at_most(percentile: float, rule: Copies) -> float:
    return _floor(percentile) if rule.max_share is None else rule.max_share


def _floor(percentile: float) -> float:
    return round(1 - percentile / 100, 9)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(share: Interval) -> str:
    return f"{_percent(share.value)} ({100 * share.low:.3g} to {100 * share.high:.3g} %)"
