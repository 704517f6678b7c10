"""Memorisation and privacy: are synthetic images copies of training images, and do they tell who a patient is?"""

from collections.abc import Iterator, Sequence

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.memorisation.pairs import NUM_DRAWN
from cxr_core.evaluation.memorisation.results import (
    CopyPair,
    MemorisationResult,
    Nearest,
    Nearness,
    ReidentificationResult,
    TargetedResult,
)
from cxr_core.evaluation.metrics import Metrics
from cxr_core.report.blocks import Block, Chart, Charts, Column, Details, Gallery, Heading, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation, png_of
from cxr_core.report.fidelity import interval_words
from cxr_core.report.figures import HELD_OUT, REAL, SYNTHETIC, similarity_histogram
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, several
from cxr_core.report.verdicts import copies_words


def memorisation_section(run: RunView) -> Section:
    """The copy check of each evaluate stage, with its pairs."""
    return Section("memorisation", "Memorisation and privacy", each_evaluation(run, _stage))


def _stage(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.memorisation
    if metrics.sweep and stage.settings.get("memorisation"):
        yield Text(f"Stage “{stage.name}” compares points: copies among their images are told there.", "absent")
        return
    if result is None:
        yield Text(f"Stage “{stage.name}” was not asked for memorisation.", "absent")
        return
    yield Heading(f"Copies of training images, stage “{stage.name}”")
    yield from _copies(stage, result)
    if result.targeted:
        yield from _targeted(result.targeted)
    if result.reidentification:
        yield from _reidentification(stage.name, result.reidentification)


def _copies(stage: StageView, result: MemorisationResult) -> Iterator[Block]:
    yield Text(copies_words(result))
    yield Text(
        f"Each synthetic image was compared with all {several(result.num_train, 'training image')} of "
        f"{several(result.num_train_patients, 'patient')}, exactly, by every way of looking below; those nearest were "
        "aligned pixel by pixel, mirrored too and shifted by up to a tenth of the image. What counts is not how alike "
        "a pair is, since all chest X-rays are alike, but whether it is more alike than images of patients who were "
        "never trained on are to their nearest training image."
    )
    yield _table(result)
    ways = (result.pixels, *result.embeddings)
    yield Charts(
        [_histogram(stage.name, way) for way in ways],
        "How alike images are to the training image nearest to them; 1 is a copy. Dashed: the "
        f"{result.percentile:g}th percentile of held-out images.",
    )
    yield _trial(result)
    if result.picture:
        yield _picture(stage, result)
    if result.pairs:
        yield Details("The pairs by name", [pair_table(result.pairs)])


def _table(result: MemorisationResult) -> Table:
    heads = (
        "median, synthetic",
        "held-out",
        "training",
        f"{result.percentile:g}th percentile",
        "beyond it",
        "share beyond",
    )
    columns = [Column("looked at by"), *(Column(name, numeric=True) for name in heads)]
    ways = (result.pixels, *result.embeddings)
    notes = [f"{way.name}: no threshold, {way.not_computed}." for way in ways if way.not_computed]
    pixels = result.pixels
    notes.append(
        f"{_images(pixels.synthetic)} synthetic, {_images(pixels.held_out)} held-out, {_images(pixels.train)} "
        "training; a training image is compared with those of other patients. In brackets: 95 % intervals; of the "
        "percentile over patients, of the share over these percentiles and the chance of so many images."
    )
    notes.append(
        f"{several(result.num_left_out, 'real image')} had a second name: an image of another patient to which the "
        f"pixels align better than {result.near_identical:g}. Such pairs were left out, so that they hide no copies."
    )
    caption = "Similarity to the nearest training image."
    return Table(caption, columns, [_row(way) for way in ways], frozenset({0}), notes)


def _row(way: Nearness) -> list[str]:
    medians = [f"{side.median:.3f}" for side in (way.synthetic, way.held_out, way.train)]
    if way.threshold is None or way.share_above is None:
        return [way.name, *medians, "not computed", "–", "–"]
    return [
        way.name,
        *medians,
        interval_words(way.threshold, ".4f"),
        count(way.num_above or 0),
        share_words(way.share_above),
    ]


def _images(side: Nearest) -> str:
    patients = f" ({several(side.num_patients, 'patient')})" if side.num_patients is not None else ""
    return f"{count(side.num_images)}{patients}"


def share_words(share: Interval) -> str:
    """A share in percent with its interval."""
    return f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f} %)"


def _histogram(stage: str, way: Nearness) -> Chart:
    groups = [
        ("synthetic", SYNTHETIC, way.synthetic.histogram),
        ("held-out", HELD_OUT, way.held_out.histogram),
        ("training, to others", REAL, way.train.histogram),
    ]
    threshold = way.threshold.value if way.threshold else None
    alt = f"Similarity to the nearest training image by {way.name}: medians {way.synthetic.median:.3f} of synthetic, "
    alt += f"{way.held_out.median:.3f} of held-out, {way.train.median:.3f} of training images."
    return similarity_histogram(f"copies-{stage}-{way.name}", way.name, groups, way.lowest, threshold, alt)


def _trial(result: MemorisationResult) -> Text:
    if not result.planted:
        return Text("Without a threshold the search could not be tried on planted copies.", "absent")
    found = ", ".join(f"{100 * each.recall:.0f} % of {each.kind} ones" for each in result.planted)
    number = count(result.planted[0].num_images)
    return Text(f"The search was tried first: of {number} planted copies of each kind it found {found}.", "note")


def _picture(stage: StageView, result: MemorisationResult) -> Gallery:
    num = min(NUM_DRAWN, len(result.pairs))
    flagged = "" if result.num_flagged is None else f" {count(result.num_flagged)} in all are beyond the percentile."
    caption = (
        f"The {num} synthetic images that align best, each with its training image to the right, and the correlation "
        f"of their pixels.{flagged} “copy?”: beyond the percentile; look whether you see one person."
    )
    alt = f"{num} pairs of a synthetic and a training chest X-ray side by side, the most alike first."
    return Gallery([png_of(stage.folder.path, str(result.picture), alt)], caption, wide=True)


def pair_table(pairs: Sequence[CopyPair]) -> Table:
    """Synthetic images by name, each with the training image that it aligns to best."""
    columns = [
        Column("synthetic"),
        Column("training"),
        Column("patient"),
        Column("aligned", numeric=True),
        Column("how"),
    ]
    rows = [
        [pair.synthetic, pair.training, pair.patient, f"{pair.score:.3f}{' *' if pair.flagged else ''}", _how(pair)]
        for pair in pairs
    ]
    return Table("Best aligned pairs. *: beyond the percentile.", columns, rows)


def _how(pair: CopyPair) -> str:
    shift = f"shifted {pair.right:+d}, {pair.down:+d}".replace("-", "−") if pair.right or pair.down else ""
    return ", ".join(filter(None, ("mirrored" if pair.mirrored else "", shift))) or "as it is"


def _targeted(result: TargetedResult) -> Iterator[Block]:
    yield Heading("Captions that few training images have")
    asked = (
        f"{count(result.num_rare)} captions (labels and view) are held by at most {result.max_images} training images; "
        f"{count(result.num_asked)} of them were asked for, with {several(result.num_images, 'image')}."
    )
    if result.difference is None or result.rare is None or result.common is None:
        yield Text(f"{asked} Not computed: {result.not_computed}.", "absent")
        return
    beyond = result.difference.low > 0
    verdict = (
        "Rare captions give their images away." if beyond else "Rare captions are not shown to give their images away."
    )
    yield Text(
        f"{asked} The best of a caption’s synthetic images aligns with its own training images by {result.rare:.3f} on "
        f"average; of {count(result.num_matched)} common captions of as many findings, with as many seeds and training "
        f"images, by {result.common:.3f}: a difference of {interval_words(result.difference, '.3f')}. {verdict}"
    )
    if result.extracted is not None:
        yield Text(
            f"Of {several(result.extracted, 'rare caption')} a synthetic image is a copy of one of its own.",
            "plain" if result.extracted else "note",
        )


def _reidentification(stage: str, result: ReidentificationResult) -> Iterator[Block]:
    yield Heading("Does a synthetic image match a patient?")
    tried = (
        f"A siamese network learnt from {several(result.num_patients, 'training patient')} with several images whether "
        f"two images are of one person. Tried on held-out patients, {count(result.num_same)} pairs of one and "
        f"{count(result.num_other)} of two, within one view: AUROC "
    )
    yield Text(tried + (interval_words(result.auroc, ".3f") if result.auroc else "not computed") + ".")
    if result.refused or result.matches is None or result.matches.share_above is None:
        yield Text(f"Refused: {result.refused or (result.matches and result.matches.not_computed)}.", "absent")
        return
    share = result.matches.share_above
    found = (
        "" if result.true_matches is None else f" It finds {100 * result.true_matches:.0f} % of held-out images’ own."
    )
    verdict = "more than other patients do" if result.matches.alarm else "not shown to be more than other patients do"
    yield Text(
        f"Where {100 * result.false_matches:g} % of held-out images match a training patient by mistake, "
        f"{share_words(share)} of synthetic images match one: {verdict}.{found}"
    )
    yield Charts(
        [_histogram(f"{stage}-person", result.matches)], "Similarity to the nearest training image; dashed: a match."
    )
