"""What the numbers of an evaluation say, in words: verdicts, alarms and what a distance may be compared with."""

from cxr_core.evaluation.fidelity_results import Coverage
from cxr_core.evaluation.memorisation.results import MIN_RECALL, MemorisationResult
from cxr_core.evaluation.metrics import FidelityResult, PromptContrast
from cxr_core.evaluation.position.results import PositionAsked
from cxr_core.report.spell import plain


def copying_alarm(result: FidelityResult) -> str:
    """Whether distances say that training images were copied, and by which numbers."""
    train, held_out, floor = result.to_train.fid, result.to_held_out.fid, result.floor.fid
    if result.alarm is None or train is None or held_out is None or floor is None:
        distances = (result.to_train, result.to_held_out, result.floor)
        reason = next((each.not_computed for each in distances if each.not_computed), "a distance is missing")
        return f"The copying alarm was not computed: {reason}."
    found = (
        f"FID to training patients is {train.value:.3g}, to held-out ones {held_out.value:.3g} at equal effective n; "
        f"the floor's interval is {floor.high - floor.low:.3g} wide"
    )
    if result.alarm:
        return f"Alarm: synthetic images are nearer to training patients than chance explains. {found}."
    return f"No alarm: synthetic images are not nearer to training patients than chance explains. {found}."


def comparability(result: FidelityResult) -> str:
    """Whether the distances may be read beside those of other papers, and why."""
    if result.comparable:
        return (
            "Comparable with other papers only where they use the same weights and resize; the reference, its mix and "
            "n still differ."
        )
    return (
        "Not comparable with other papers: the features are those of our own judge, so numbers can be compared only "
        "with others of the same judge."
    )


def coverage_words(coverage: Coverage) -> str:
    """How much of the request every side has, and what is lacking: "covers 93 % of the request; lacks Edema PA"."""
    words = f"covers {100 * coverage.share:.3g} % of the request"
    if not coverage.num_missing:
        return words
    rest = coverage.num_missing - len(coverage.missing)
    names = ", ".join(each.cell for each in coverage.missing)
    return f"{words}; lacks {names}{f' and {rest} more' if rest else ''}"


def copies_words(result: MemorisationResult) -> str:
    """What the copy check says, or why it says nothing."""
    pixels, floor = result.pixels, 100 - result.percentile
    if pixels.share_above is None:
        return f"Whether synthetic images are copies cannot be told: {pixels.not_computed}."
    missed = [f"{100 * each.recall:.0f} % of {each.kind} ones" for each in result.planted if each.recall < MIN_RECALL]
    weak = f" The check is weak here: of planted copies it found only {', '.join(missed)}." if missed else ""
    share = pixels.share_above
    numbers = f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f} %) of synthetic images"
    said = f"{numbers} align with a training image better than {result.percentile:g} % of held-out images do"
    if pixels.alarm:
        return f"{said}: more than the {floor:g} % of real patients. Look at the pairs.{weak}"
    return f"{said}, which is not shown to be more than the {floor:g} % of real patients.{weak}"


_POSITIONS = {
    "not_shown": "not shown: always showing it in its commonest cell would do as well",
    "follows": "follows the prompt, as often as the localiser can tell",
    "follows_less": "follows the prompt, but less often than the localiser finds real boxes",
}


def position_words(asked: PositionAsked) -> str:
    """Whether findings lie where prompts put them, or why the localiser does not say."""
    return _POSITIONS.get(asked.verdict) or asked.refused or ""


_PROMPTS = {
    "reversed": "reversed: clearer in images asked for without it",
    "not_shown": "not shown: shuffled prompts explain it",
    "not_compared": "there; not compared with real images",
    "exaggerated": "exaggerated: clearer than in real images",
    "fainter": "there, but fainter than in real images",
    "not_told_apart": "there, not told from real images (intervals overlap)",
}


def prompt_words(contrast: PromptContrast) -> str:
    """Whether images show the finding that they were asked for with, or why the judge does not say."""
    words = _PROMPTS.get(contrast.verdict) or plain(contrast.refused or "")
    if contrast.verdict != "exaggerated" or contrast.overlap is None:
        return words
    return f"{words} (intervals {'overlap' if contrast.overlap else 'do not overlap'})"
