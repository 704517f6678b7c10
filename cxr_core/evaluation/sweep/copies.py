"""The copying alarm of a sweep's points: training images among their images, and more of them with more steps."""

from collections.abc import Sequence

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.memorisation.results import MemorisationResult
from cxr_core.evaluation.sweep.results import Copied, Point
from cxr_core.evaluation.sweep.settings import Copies

_NUM_PAIRS = 5
"""Pairs that are kept of a point."""


def judge_copies(found: Sequence[tuple[Point, MemorisationResult]], rule: Copies) -> list[Copied]:
    """What the search for copies says of each point, and whether it raises the alarm by the rule."""
    return [_judge(point, result, found, rule) for point, result in found]


def _judge(
    point: Point, result: MemorisationResult, found: Sequence[tuple[Point, MemorisationResult]], rule: Copies
) -> Copied:
    share, floor = result.pixels.share_above, round(1 - result.percentile / 100, 9)
    at_most = floor if rule.max_share is None else rule.max_share
    is_above = share is not None and share.low > at_most
    may_rise = rule.rising and share is not None and not is_above and share.value > at_most
    before = _passed(point, share, found) if may_rise and share else None
    return Copied(
        percentile=result.percentile,
        num_train=result.num_train,
        share=share,
        floor=floor,
        at_most=at_most,
        recall=result.recall,
        pairs=result.pairs[:_NUM_PAIRS],
        alarm=None if share is None else is_above or before is not None,
        not_computed=result.pixels.not_computed if share is None else None,
        risen_from=before.id if before else None,
    )


def _passed(point: Point, share: Interval, found: Sequence[tuple[Point, MemorisationResult]]) -> Point | None:
    """An earlier checkpoint, drawn alike, whose share lies below with its whole interval; None where there is none."""
    shares = ((other, result.pixels.share_above) for other, result in found if point.is_after(other))
    return next((other for other, its in shares if its and its.high < share.low), None)
