"""What synthetic images add to real ones: the primary comparison, all arms, the exchange rate, groups of patients."""

from collections.abc import Iterator

from cxr_core.evaluation.benefit.results import (
    BenefitArm,
    BenefitResult,
    ByLabels,
    Comparison,
    ExchangeRate,
    GroupAuroc,
)
from cxr_core.evaluation.benefit.settings import MACRO
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import Metrics
from cxr_core.report.blocks import Block, Chart, Charts, Column, Details, Heading, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.faithfulness import number
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several

_LABELS = {
    "as recorded": "labels as the Dataset records them; those of ChestX-ray14 are text-mined from reports",
    "adjudicated": "adjudicated labels",
}


def benefit_section(run: RunView) -> Section:
    """One experiment below the other."""
    return Section("benefit", "What synthetic images add", each_evaluation(run, _stage))


def _stage(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    results = metrics.benefit
    if not results:
        yield Text(f"Stage “{stage.name}” was asked for no experiment on what synthetic images add.", "absent")
        return
    yield Text(
        "Classifiers of the same steps learn from real images, synthetic images, or both, and are tested on real "
        "held-out patients. Real images of a smaller arm are among those of a larger one; synthetic images were drawn "
        "to have the findings and views of the real ones whose place they take."
    )
    for i, result in enumerate(results):
        yield Heading(listed([plain(name) for name in result.findings]))
        yield from _experiment(f"benefit-{stage.name}-{i}", result)


def _experiment(key: str, result: BenefitResult) -> Iterator[Block]:
    yield Text(_setting(result))
    for table in result.by_labels:
        yield Text(_primary(table))
        if not table.aurocs:
            continue
        yield Charts([_chart(f"{key}-{table.labels}", table)], f"AUROC with 95 % intervals; {_LABELS[table.labels]}.")
        yield _aurocs(result, table)
        yield _comparisons(table)
        if table.exchange:
            yield Charts([_curve(f"{key}-curve-{table.labels}", result, table)], _CURVE)
            yield _exchange(table)
        yield Details("By sex, age and view of the test patients", [_groups(table)])
    yield Details("What each arm learnt from", [_arms(result)])


def _setting(result: BenefitResult) -> str:
    matched = (
        "Test images without a finding are weighted to the views of those with it, so that the view alone scores 0.50."
        if result.match_views
        else "Views are not matched: see what the view alone gives."
    )
    held = (
        " Arms are run only if the generator of their synthetic images learnt from exactly their real images."
        if result.generator_saw == "same_n"
        else ""
    )
    seeds = several(len(result.seeds), "seed")
    return (
        f"A classifier ({result.preset}, {result.image_size} pixels a side) of {several(result.steps, 'step')} for "
        f"each arm and each of {seeds}, tested on the {result.split} split. {matched}{held}"
    )


def _primary(table: ByLabels) -> str:
    images = f"{several(table.num_images, 'test image')} of {several(table.num_patients, 'patient')}"
    head = f"By {_LABELS[table.labels]} ({images}): "
    if not table.aurocs:
        reasons = [one.not_computed for one in table.findings if one.not_computed]
        return f"{head}not computed: {'; '.join(map(plain, reasons)) or 'no arm could be run'}."
    if table.primary is None:
        return f"{head}no primary comparison could be made or was named."
    one = table.primary
    return f"{head}the primary comparison, {compared(one)}: {change(one.difference)}, p = {one.p:.3f}. {_verdict(one)}"


def compared(one: Comparison) -> str:
    """ "replace-50 minus real, Edema"."""
    return f"{one.arm} minus {one.against}, {_finding(one.finding)}"


def _verdict(one: Comparison) -> str:
    p = one.p if one.p_holm is None else one.p_holm
    if p >= 0.05:
        return "No difference is shown."
    return "The first is better." if one.difference.value > 0 else "The first is worse."


def _chart(key: str, table: ByLabels) -> Chart:
    from cxr_core.report import figures

    is_alone = len({one.finding for one in table.aurocs} - {MACRO}) == 1  # a single finding is its own mean
    shown = [one for one in table.aurocs if (one.finding == MACRO) != is_alone]
    points = [
        (
            f"{_finding(one.finding)}: {one.arm}",
            one.auroc.value,
            one.auroc.low,
            one.auroc.high,
            figures.REAL if one.arm.startswith("real") else figures.SYNTHETIC,
        )
        for one in sorted(shown, key=lambda one: one.finding)
    ]
    alt = "AUROC. " + "; ".join(f"{name}: {value:.2f} ({low:.2f}–{high:.2f})" for name, value, low, high, _ in points)
    return figures.intervals(key, points, [("chance", 0.5)], f"{alt}.", axis="AUROC on real test patients")


_CURVE = (
    "The learning curve of real images alone with its 95 % band, and arms that have synthetic images besides, each at "
    "its number of real ones; mean of findings. An arm above the curve is better than its real images alone."
)


def _curve(key: str, result: BenefitResult, table: ByLabels) -> Chart:
    from cxr_core.report import figures

    macro = {one.arm: one.auroc for one in table.aurocs if one.finding == MACRO}
    curve = [(num, macro[arm].value, macro[arm].low, macro[arm].high) for arm, num in result.curve.items()]
    # At no real image a logarithmic axis has no place.
    arms = [
        (arm.arm, arm.num_real, macro[arm.arm].value)
        for arm in result.arms
        if arm.num_synthetic and arm.num_real and arm.not_run is None
    ]
    told = [f"{count(num)} real images: {value:.2f}" for num, value, _, _ in curve]
    told += [f"{name}: {value:.2f}" for name, _, value in arms]
    return figures.learning_curve(key, curve, arms, f"AUROC. {'; '.join(told)}.")


def _aurocs(result: BenefitResult, table: ByLabels) -> Table:
    by_key = {(one.arm, one.finding): one.auroc for one in table.aurocs}
    names = [*(one.finding for one in table.findings), MACRO]
    columns = [Column("trained on"), *(Column(_finding(name), numeric=True) for name in names)]
    arms = list(dict.fromkeys(arm for arm, _ in by_key))
    rows = [[arm, *(number(by_key[arm, n]) if (arm, n) in by_key else "–" for n in names)] for arm in arms]
    alone = [number(one.view_only) if one.view_only else "–" for one in table.findings]
    rows.append(["the view alone", *alone, "–"])
    notes = [
        f"In brackets: 95 % interval, {count(result.num_resamples)} resamples of test patients and of training seeds.",
        *(
            f"{plain(one.finding)} not computed: {plain(one.not_computed)}."
            for one in table.findings
            if one.not_computed
        ),
        *(f"{arm.arm}, not run: {plain(arm.not_run)}." for arm in result.arms if arm.not_run),
    ]
    return Table(f"AUROC by arm; {_LABELS[table.labels]}.", columns, rows, notes=notes)


def _comparisons(table: ByLabels) -> Table:
    columns = [Column("arm"), Column("finding"), *(Column(name, numeric=True) for name in ("difference", "p", "Holm"))]
    rows = [
        [one.arm, _finding(one.finding), change(one.difference), f"{one.p:.3f}", f"{one.p_holm:.3f}", _verdict(one)]
        for one in table.comparisons
        if one.p_holm is not None
    ]
    notes = [
        "Paired by training seed and test patient. p from the resamples’ standard deviation; Holm: the same corrected "
        "over all rows of this table. The primary comparison is not among them."
    ]
    return Table("AUROC of each arm minus that of all real images.", [*columns, Column("verdict")], rows, notes=notes)


def _exchange(table: ByLabels) -> Table:
    columns = [Column("arm"), Column("finding"), Column("real images per synthetic image")]
    rows = [[one.arm, _finding(one.finding), _rate(one)] for one in table.exchange]
    notes = [
        "Read from the learning curve of real images (isotonic, straight on a logarithmic axis): the fewest real "
        "images that reach the arm’s AUROC, less the arm’s own, for each synthetic image. Nothing is extrapolated; ≤ "
        "and ≥ mark ends of the curve."
    ]
    return Table("The exchange rate: what one synthetic image was worth.", columns, rows, notes=notes)


def _rate(one: ExchangeRate) -> str:
    if one.rate is None:
        return f"not computed: {plain(one.not_computed or '')}"
    sign = {"at_least": "≥ ", "at_most": "≤ ", None: ""}[one.bound]
    low, high = "≤ " * one.low_is_bound, "≥ " * one.high_is_bound
    return f"{sign}{one.rate.value:.2f} ({low}{one.rate.low:.2f} to {high}{one.rate.high:.2f})".replace("-", "−")


def _groups(table: ByLabels) -> Table:
    arms = list(dict.fromkeys(arm for one in table.groups for arm in one.aurocs))
    columns = [Column(name) for name in ("group", "finding", "with / without", *arms, "difference")]
    rows = [
        [
            f"{one.by} {one.group}",
            _finding(one.finding),
            f"{count(one.num_with)} / {count(one.num_without)}, {several(one.num_patients, 'patient')}",
            *_group_cells(one, arms),
        ]
        for one in table.groups
    ]
    notes = ["Views are matched within each group. Groups are not compared with each other, and nothing is corrected."]
    return Table(f"AUROC by group; {_LABELS[table.labels]}.", columns, rows, notes=notes)


def _group_cells(one: GroupAuroc, arms: list[str]) -> list[str]:
    if not one.aurocs:
        return [f"not computed: {plain(one.not_computed or '')}", *["–"] * len(arms)]
    numbers = [number(one.aurocs[arm]) if arm in one.aurocs else "–" for arm in arms]
    return [*numbers, change(one.difference) if one.difference else "–"]


def _arms(result: BenefitResult) -> Table:
    heads = ("real images", "their patients", "synthetic images", "unlike")
    columns = [Column("arm"), *(Column(name, numeric=True) for name in heads), Column("with"), Column("generator saw")]
    rows = [_arm(arm) for arm in result.arms]
    notes = [
        "Unlike: synthetic images for which there was none with the findings and view of the real one they stand for."
    ]
    return Table("Training images of each arm.", columns, rows, notes=notes)


def _arm(arm: BenefitArm) -> list[str]:
    numbers = (arm.num_real, arm.num_real_patients, arm.num_synthetic, arm.num_unlike)
    having = ", ".join(f"{plain(name)} {count(num)}" for name, num in arm.num_with.items())
    return [arm.arm, *map(count, numbers), having, arm.generator_saw or "–"]


def _finding(name: str) -> str:
    return "mean of findings" if name == MACRO else plain(name)


def change(difference: Interval) -> str:
    """ "+0.040 (−0.010 to +0.090)"."""
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})".replace("-", "−")
