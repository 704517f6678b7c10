"""The utility experiments: what synthetic images are worth as training images, and what each protocol can show."""

from collections.abc import Iterator, Mapping

from cxr_core.evaluation.metrics import ArmResult, Interval, Metrics, Published, Scores, TestSet, UtilityResult
from cxr_core.report.blocks import Block, Chart, Charts, Citation, Column, Details, Heading, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several

STUDY = Citation("Malik and Humair (2023), arXiv 2305.18927", "https://arxiv.org/abs/2305.18927")

ARMS = {
    "real": "real alone",
    "mixed": "half real, half synthetic",
    "half": "the same half real alone",
    "doubled": "that half shown twice",
}

_VIEW_ONLY = "the view alone"


def utility_section(run: RunView) -> Section:
    """What synthetic images are worth as training images: one table an experiment."""
    return Section("utility", "Utility", each_evaluation(run, _utility))


def experiment_name(result: UtilityResult) -> str:
    """The question, n and the protocol: what every mention of an experiment says, so that a leaky one is never bare."""
    each = " of each class" if result.counts == "per_class" else ""
    protocol = "as the study’s code did it: leaky" if result.is_leaky else "repaired"
    return f"{plain(result.finding)} from {plain(result.negatives)}, n = {count(result.num_images)}{each} ({protocol})"


def _utility(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    if not metrics.utility:
        yield Text(f"Stage “{stage.name}” was asked for no utility experiment.", "absent")
        return
    yield Text(
        "Can a classifier learn a finding from synthetic images? One is trained on n real images; one on half real and "
        "half synthetic images; one on that half of real images alone, for as many epochs; and one on the same half "
        "shown twice an epoch, which takes as many optimiser steps as n images. Half synthetic against the half shown "
        "twice is what synthetic images are worth; against the half alone they also bring more steps."
    )
    yield Text(
        "Repaired: training images of the train split, test images of the official test split as they are, no patient "
        "in both. As the study’s code did it: training and test images from the training list in its order, whoever’s "
        "they are, test images augmented too, views not matched. That leaks, so its numbers are likely too high."
    )
    if metrics.real.num_barred:
        yield Text(
            f"The generator learnt from {several(metrics.real.num_barred, 'official test patient')} who were moved for "
            "their bounding boxes: they are in no test here.",
            "note",
        )
    yield Text(f"{_reported(metrics.published)} {metrics.published_caveat}", "note", STUDY)
    for i, result in enumerate(metrics.utility):
        yield Heading(experiment_name(result))
        yield from _experiment(f"utility-{stage.name}-{i}", result, metrics)


def _reported(published: tuple[Published, ...]) -> str:
    rows = [
        f"{row.accuracy:.2f} on {count(row.num_real)} real"
        + (f" and {count(row.num_synthetic)} synthetic" if row.num_synthetic else "")
        + f" images ({plain(row.finding)})"
        for row in published
    ]
    return f"The study reported accuracies of {listed(rows)}."


def _experiment(key: str, result: UtilityResult, metrics: Metrics) -> Iterator[Block]:
    if result.not_run is not None:
        yield Text(f"Not run: {result.not_run}.", "absent")
        return
    if result.test is not None:
        yield Text(_setting(result, result.test))
    published = metrics.published if result.is_leaky else ()
    if any(arm.classifier for arm in result.arms):
        yield Charts([_chart(key, result, published)], _chart_caption(result))
    yield _table(result, published)
    yield from (Text(sentence) for sentence in _worth(result))
    if any(arm.by_view for arm in result.arms):
        yield _views(result)
    if any(arm.seeds for arm in result.arms):
        yield Details("Each training seed by itself", [_seeds(result)])


def _setting(result: UtilityResult, test: TestSet) -> str:
    views = "; ".join(
        f"{view or 'unknown'} {num['with']} with, {num['without']} without" for view, num in test.views.items()
    )
    rule = "alone or among others" if result.rule == "any" else "and nothing else"
    return (
        f"Judged on {several(test.num_images, 'real image')} of {several(test.num_patients, 'patient')}, half of them "
        f"with {plain(result.finding)} ({rule}; by view: {views}). {_protocol(result, test)} The classifier saw "
        f"{result.image_size} pixels a side for {several(result.epochs, 'epoch')}; {_augmentation(result)}."
    )


def _protocol(result: UtilityResult, test: TestSet) -> str:
    if result.is_leaky:
        shared = f"{count(test.num_shared_patients)} of the {several(test.num_patients, 'test patient')}"
        return (
            f"Leaky: {shared} {'is' if test.num_shared_patients == 1 else 'are'} in training too, and the generator "
            "may have learnt from the test images, which come from the training list. Views are not matched."
        )
    if result.match_views:
        matched = "Each image with the finding stands beside one without it of the same view, in training and in test."
    else:
        matched = "Views are not matched: see what the view alone gives."
    return f"No test patient is in training. {matched}"


def _augmentation(result: UtilityResult) -> str:
    if result.augment == "none":
        return "no augmentation"
    images = "training and of test images" if result.is_leaky else "training images"
    return f"augmentation of {images}: flips and zoom"


_HEADS = (
    "real images",
    "their patients",
    "synthetic images",
    "of the finding, their generator saw",
    "accuracy",
    "AUROC",
)


def _table(result: UtilityResult, published: tuple[Published, ...]) -> Table:
    columns = [Column("trained on"), *(Column(name, numeric=True) for name in _HEADS)]
    ours = [row for arm in result.arms for row in _arm_rows(result, arm)]
    study = [
        [_study(row), count(row.num_real), "–", count(row.num_synthetic), "–", f"{row.accuracy:.2f}", "–"]
        for row in published
    ]
    strong = frozenset(i for i, row in enumerate(ours) if row[0] != _VIEW_ONLY)
    notes = [f"{_name(result, arm).capitalize()}, not run: {arm.not_run}." for arm in result.arms if arm.not_run]
    notes += _warnings(result)
    if published:
        notes.append(_difference(result, published))
    notes.append(
        "In brackets: 95 % interval by a bootstrap over training seeds and test patients. “The view alone”: the "
        "finding guessed from the projection (PA or AP) alone. Chance is 0.50: half of the test images have it."
    )
    below = ", with the study’s rows below" if study else ""
    caption = f"Telling {experiment_name(result)}, by what the classifier was trained on{below}."
    return Table(caption, columns, [*ours, *study], strong, notes)


def _arm_rows(result: UtilityResult, arm: ArmResult) -> Iterator[list[str]]:
    """The classifier's row and, below it, what the view alone would give."""
    numbers = [count(arm.num_real), count(arm.num_real_patients), count(arm.num_synthetic), _seen(arm)]
    row = [_name(result, arm), *numbers]
    yield [*row, *_cells(arm.classifier)] if arm.classifier else [*row, "not run", "–"]
    if arm.view_only:
        yield [_VIEW_ONLY, "", "", "", "", *_cells(arm.view_only)]


def _name(result: UtilityResult, arm: ArmResult) -> str:
    return ARMS[arm.arm] + (" (leaky)" if result.is_leaky else "")


def _seen(arm: ArmResult) -> str:
    """Real images and patients with the finding that the generator learnt from."""
    if not arm.num_synthetic:
        return "–"
    if arm.generator_saw is None:
        return "unknown: the synthetic Dataset does not say"
    seen = [f"{several(one.images, 'image')} of {several(one.patients, 'patient')}" for one in arm.generator_saw]
    return "; before that, from another Dataset, ".join(seen)


def _cells(scores: Scores) -> list[str]:
    return [_interval(scores.accuracy), _interval(scores.auroc)]


def _study(row: Published) -> str:
    return f"study, {plain(row.finding)}: {ARMS[row.arm]} (leaky)"


def _interval(number: Interval) -> str:
    return f"{number.value:.2f} ({number.low:.2f}–{number.high:.2f})"


def _warnings(result: UtilityResult) -> Iterator[str]:
    """Arms whose classifier is not shown to know more than the view."""
    for arm in result.arms:
        if arm.classifier and arm.view_only and arm.classifier.auroc.low <= arm.view_only.auroc.value:
            yield (
                f"{_name(result, arm).capitalize()}: the interval of its AUROC reaches down to that of the view alone, "
                "so it is not shown to know more than the view."
            )


def _difference(result: UtilityResult, published: tuple[Published, ...]) -> str:
    """Why the study's rows stand beside ours and not against them."""
    ours = result.test.num_images if result.test else 0
    findings = {row.finding for row in published}
    reasons = ["one run each and another generator"]
    if findings != {result.finding}:
        reasons.append(f"another finding ({listed(sorted(findings))})")
    if result.counts == "per_class":
        reasons.append("its counts read as of each class, which its table does not say")
    elif {row.num_real + row.num_synthetic for row in published} != {result.num_images}:
        reasons.append("another number of training images")
    if result.counts == "in_all" and ours and {row.num_test for row in published} != {ours}:
        reasons.append("another number of test images")
    return f"The study’s rows stand beside ours for orientation: {listed(reasons)}."


def _worth(result: UtilityResult) -> Iterator[str]:
    """The value of synthetic images in words: at equal steps, then at equal epochs."""
    num = count(result.num_images // 2) + (" of each class" if result.counts == "per_class" else "")
    leaky = "Leaky: " if result.is_leaky else ""
    if result.value_of_synthetic is not None:
        yield (
            f"{leaky}What the synthetic images were worth at equal optimiser steps: {num} of them beside as many real "
            f"ones, against those real ones shown twice, {_changed(result.value_of_synthetic)}"
        )
    if result.value_at_equal_epochs is not None:
        yield (
            f"{leaky}At equal epochs, so with twice the steps, against those real ones alone: they "
            f"{_changed(result.value_at_equal_epochs)}"
        )


def _changed(change: Scores) -> str:
    numbers = f"changed accuracy by {_change(change.accuracy)} and AUROC by {_change(change.auroc)}."
    if change.auroc.low > 0:
        return f"{numbers} The latter interval excludes 0: they helped."
    if change.auroc.high < 0:
        return f"{numbers} The latter interval excludes 0: they harmed."
    return f"{numbers} The latter interval includes 0: no effect is shown."


def _change(number: Interval) -> str:
    return f"{number.value:+.3f} ({number.low:+.3f} to {number.high:+.3f})".replace("-", "−")


def _views(result: UtilityResult) -> Table:
    """The same classifiers on AP and on PA test images apart."""
    trained = [arm for arm in result.arms if arm.by_view]
    heads = [
        f"{one.view}: {metric} (n = {count(one.num_images)})"
        for one in trained[0].by_view
        for metric in ("accuracy", "AUROC")
    ]
    columns = [Column("trained on"), *(Column(head, numeric=True) for head in heads)]
    rows = [
        [
            ARMS[arm.arm],
            *(
                cell
                for one in arm.by_view
                for cell in (_cells(one.scores) if one.scores else [f"not computed: n = {one.num_images}", "–"])
            ),
        ]
        for arm in trained
    ]
    notes = [] if result.match_views else ["Views are not matched: within a view, chance is not 0.50 for accuracy."]
    return Table(f"{experiment_name(result)}: AP and PA test images apart.", columns, rows, notes=notes)


def _chart(key: str, result: UtilityResult, published: tuple[Published, ...]) -> Chart:
    from cxr_core.report import figures

    colours: Mapping[str, str] = dict.fromkeys(ARMS, figures.REAL) | {"mixed": figures.SYNTHETIC}
    rows = []
    for arm in result.arms:
        if arm.classifier:
            rows.append((_name(result, arm), arm.classifier.accuracy, colours[arm.arm]))
        if arm.view_only:
            rows.append((_VIEW_ONLY, arm.view_only.accuracy, figures.MUTED))
    for row in published:
        number = Interval(value=row.accuracy, low=row.accuracy, high=row.accuracy)
        rows.append((_study(row), number, colours[row.arm]))
    alt = "Accuracy. " + "; ".join(f"{name}: {_interval(number)}" for name, number, _ in rows) + "."
    points = [(name, number.value, number.low, number.high, colour) for name, number, colour in rows]
    return figures.intervals(key, points, [("chance", 0.5)], alt, axis="accuracy on real test images")


def _chart_caption(result: UtilityResult) -> str:
    if result.is_leaky:
        return "Leaky. Accuracy with its 95 % interval; open circles: as published, of one run, without an interval."
    exact = "; open circles: exactly a coin, since views are matched" if result.match_views else ""
    return f"Accuracy with its 95 % interval{exact}."


def _seeds(result: UtilityResult) -> Table:
    heads = ("seed", "accuracy", "AUROC", "final training loss")
    columns = [Column("trained on"), *(Column(name, numeric=True) for name in heads)]
    rows = [
        [_name(result, arm), str(one.seed), _interval(one.accuracy), _interval(one.auroc), f"{one.final_loss:.3g}"]
        for arm in result.arms
        for one in arm.seeds
    ]
    return Table("One classifier a row; intervals over test patients.", columns, rows)
