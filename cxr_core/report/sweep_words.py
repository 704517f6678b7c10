"""What a sweep found, in words: the rule and its choice, what raises the copying alarm, and what did."""

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.choose import LEAST_IS_BEST, not_worse, value_of
from cxr_core.evaluation.sweep.results import Copied, PointResult, SweepAlarm, SweepResult
from cxr_core.report.spell import several
from cxr_core.report.verdicts import copying_alarm
from cxr_core.training.overfit import RULE

_BY_DISTANCE = (
    "A point raises the copying alarm where FID says that its images are nearer to training patients than to "
    "validation patients by more than the width of the floor's interval"
)


def choice_words(result: SweepResult) -> str:
    """The rule, and the point that it recommends or why it recommends none."""
    best_is = "least" if result.by in LEAST_IS_BEST else "most"
    name = result.by.upper() if result.by in LEAST_IS_BEST else result.by
    rule = f"Rule: the {best_is} {name} on validation patients, of points without a copying alarm."
    best = _point(result, result.chosen)
    if best and (value := value_of(best, result.by)):
        return f"{rule} Recommended: {best.point.words}, {name} {value.value:.3g}.{_beside(result, best)}"
    num = sum(value_of(each, result.by) is not None for each in result.points)
    if num:
        return f"{rule} Nothing is recommended: all {num} points have a copying alarm."
    first = result.points[0]
    reason = first.fidelity.headline.not_computed or first.diversity.headline.not_computed
    return f"{rule} Nothing is recommended: {name} could not be computed ({reason})."


def _beside(result: SweepResult, best: PointResult) -> str:
    """How many other points are not shown to be worse."""
    others = [each for each in result.points if each is not best and not each.alarm and value_of(each, result.by)]
    num = len(not_worse(result.points, best, result.by))
    if not others:
        return ""
    if not num:
        return " The intervals of all others lie apart from its own."
    return f" Not shown to be worse, since its interval overlaps theirs: {several(num, 'other point')}."


def alarm_rule(result: SweepResult) -> str:
    """What raises the copying alarm of a point."""
    copies = result.points[0].copies
    if copies is None:
        return f"{_BY_DISTANCE}. Copies among the images themselves were not looked for (`memorisation`)."
    most = _percent(copies.at_most)
    rising = f", or is above {most} and lies above that of an earlier checkpoint of the same guidance"
    return (
        f"{_BY_DISTANCE}; or where the share of its images that align with a training image better than "
        f"{copies.percentile:g} % of validation images do lies above {most} with its whole interval"
        f"{rising if result.rising else ''}."
    )


def alarm_words(alarm: SweepAlarm | str, result: SweepResult) -> str:
    """Something that says overfitting; older files have it in words."""
    if isinstance(alarm, str):
        return alarm
    if alarm.kind == "loss":
        rise = f"{100 * (alarm.rise or 0):.1f} %"
        return f"{alarm.stage}: its validation loss is {rise} above that of step {alarm.best_step:,} ({RULE})"
    point, best = _point(result, alarm.point), _point(result, result.chosen)
    if point is None:
        return f"{alarm.kind} of a point that is not listed: {alarm.point}"
    if alarm.kind == "past":
        earlier = best.point.words if best else "an earlier one"
        return (
            f"{point.point.words} is farther from validation patients than {earlier}, an earlier checkpoint of the "
            "same guidance: training has gone on for too long"
        )
    by_copies = alarm.kind == "copies" and point.copies
    said = copied_words(point.copies, result) if by_copies and point.copies else copying_alarm(point.fidelity)
    return f"{point.point.words}: {said.removeprefix('Alarm: ')}"


def copied_words(copies: Copied, result: SweepResult) -> str:
    """What the search for copies says of a point, or why it says nothing."""
    if copies.share is None:
        return f"Whether its images are copies cannot be told: {copies.not_computed or 'see the evaluation'}."
    said = f"{_share(copies.share)} of its images align with a training image better than {copies.percentile:g} % of "
    said += "validation images do"
    if not copies.alarm:
        return f"No alarm: {said}."
    if copies.share.low > copies.at_most:
        return f"Alarm: {said}, more than {_percent(copies.at_most)}."
    return f"Alarm: {said}, more than of {_earlier(copies, result)}."


def _earlier(copies: Copied, result: SweepResult) -> str:
    before = _point(result, copies.risen_from)
    if before is None or before.copies is None or before.copies.share is None:
        return "an earlier checkpoint"
    return f"{before.point.words} ({_share(before.copies.share)}), an earlier checkpoint"


def _point(result: SweepResult, wanted: str | None) -> PointResult | None:
    return next((each for each in result.points if each.point.id == wanted), None)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(share: Interval) -> str:
    return f"{_percent(share.value)} ({100 * share.low:.3g} to {100 * share.high:.3g} %)"
