"""A sweep: every point in one table, its numbers over training steps, and which one the rule recommends."""

from collections.abc import Callable, Iterator

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.sweep.results import Copied, PointResult, SweepResult
from cxr_core.report.blocks import Block, Chart, Charts, Column, Details, Heading, Section, Table, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.diversity import alike_cell, share_cell
from cxr_core.report.evaluation import read_metrics
from cxr_core.report.fidelity import extractor_words, interval_words
from cxr_core.report.memorisation import pair_table, share_words
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, several
from cxr_core.report.sweep_words import alarm_rule, alarm_words, choice_words, copied_words
from cxr_core.report.verdicts import comparability


def sweep_section(run: RunView) -> Section:
    """Which checkpoint, at which guidance: one table an evaluate stage with `sweep`."""
    blocks: list[Block] = []
    for stage in run.of_kind("evaluate"):
        if not stage.settings.get("sweep"):
            continue
        blocks += list(_sweep(stage)) if stage.is_done else [not_yet(stage)]
    if blocks:
        blocks.append(Text(_looks(run), "note"))
    absent = Text("No stage of this run compares points.", "absent")
    return Section("sweep", "Which checkpoint", blocks or [absent])


def _looks(run: RunView) -> str:
    """Which finished stages of the run have looked at official test patients."""
    names = [f"“{stage.name}”" for stage in run.of_kind("evaluate") if stage.is_done and _looked_at_test(stage)]
    if not names:
        return "No stage of this run has looked at official test patients."
    return f"Official test patients were looked at by {several(len(names), 'stage')} of this run: {listed(names)}."


def _looked_at_test(stage: StageView) -> bool:
    if sweep := stage.settings.get("sweep"):
        return bool(sweep["test"])
    judged = (stage.settings.get("faithfulness") or {}).get("split") == "test"
    parts = ("utility", "benefit", "fidelity", "memorisation", "position")
    return judged or any(stage.settings.get(name) for name in parts)


def _sweep(stage: StageView) -> Iterator[Block]:
    result = read_metrics(stage).sweep
    if result is None:
        return
    yield Heading(f"Stage “{stage.name}”")
    yield Text(
        f"{several(len(result.points), 'point')}, each a series of synthetic images of one model and sampler, beside "
        "the same validation patients. Official test patients play no part in the choice."
    )
    yield Text(choice_words(result))
    for alarm in result.alarms:
        yield Text(f"Alarm: {alarm_words(alarm, result)}")
    yield Text(alarm_rule(result), "note")
    yield _table(result)
    yield from _curves(stage.name, result)
    yield from _copies(result)
    yield Text(_test_words(result))
    yield Text(f"{extractor_words(result.points[0].fidelity)} {comparability(result.points[0].fidelity)}", "note")
    yield Text(
        f"Features were computed for {count(result.num_real_computed)} of {count(result.num_real_seen)} real images "
        "that all points share; the others were there from another stage of this run.",
        "note",
    )


_HEADS = ("images", "KID", "FID", "precision", "recall", "density", "coverage", "MS-SSIM", "AUROC of the judge")


def _table(result: SweepResult) -> Table:
    rows = [_row(each) for each in result.points]
    chosen = {i for i, each in enumerate(result.points) if each.point.id == result.chosen}
    first = result.points[0]
    notes = [f"“{each.point.words}”: {reason}." for each in result.points if (reason := _missing(each, result))]
    if short := first.diversity.floor.not_computed:
        notes.append(f"Floor of precision, recall, density and coverage: not computed: {short}.")
    notes.append(
        "In brackets: 95 % interval by bootstrap of patients and of synthetic images; of precision, recall, density "
        "and coverage by random halves of them. KID and FID: less is nearer; "
        f"precision, recall, density and coverage (k = {first.diversity.neighbours}, one image a patient, equal n and "
        "mix): more is better. MS-SSIM within a prompt: near that of real images is good, far above it the model "
        "repeats itself. The last row is the floor: real patients beside others, at the n of the first point."
    )
    columns = [Column("point"), *(Column(name, numeric=True) for name in _HEADS)]
    if first.copies:
        columns.append(Column("copies", numeric=True))
        notes.append(
            f"Copies: images that align with one of all {count(first.copies.num_train)} training images better than "
            f"{first.copies.percentile:g} % of validation images do. The search was tried first: of planted copies it "
            f"found at least {100 * first.copies.recall:.0f} % of each kind."
        )
    caption = "All points on validation patients; the recommended one stands out."
    return Table(caption, columns, [*rows, _floor(first)], frozenset(chosen), notes)


def _row(each: PointResult) -> list[str]:
    headline, spread = each.fidelity.headline, each.diversity.headline
    alarm = " (copying alarm)" if each.alarm else ""
    copied = [_copied(each.copies)] if each.copies else []
    auroc = "–" if each.faithfulness is None else f"{each.faithfulness:.2f}"
    shares = [share_cell(getattr(spread, name)) for name in ("precision", "recall", "density", "coverage")]
    kid = interval_words(headline.kid, ".3g") if headline.kid else "not computed"
    fid = interval_words(headline.fid, ".3g") if headline.fid else "not computed"
    return [each.point.words + alarm, count(each.point.num_images), kid, fid, *shares,
            alike_cell(each.diversity.synthetic), auroc, *copied]  # fmt: skip


def _copied(found: Copied) -> str:
    return share_words(found.share) if found.share else "not computed"


def _floor(first: PointResult) -> list[str]:
    floor, spread = first.fidelity.floor, first.diversity.floor
    shares = [share_cell(getattr(spread, name)) for name in ("precision", "recall", "density", "coverage")]
    kid = interval_words(floor.kid, ".3g") if floor.kid else "not computed"
    fid = interval_words(floor.fid, ".3g") if floor.fid else "not computed"
    copied = [f"{100 * first.copies.floor:.3g} %"] if first.copies else []
    return ["real patients", count(floor.a.num_images), kid, fid, *shares, alike_cell(first.diversity.real), "–",
            *copied]  # fmt: skip


def _missing(each: PointResult, result: SweepResult) -> str | None:
    reasons = (each.fidelity.headline.not_computed, each.diversity.headline.not_computed)
    said = [f"not computed: {reason}" for reason in dict.fromkeys(filter(None, reasons))]
    if each.copies and each.copies.share is None:
        said.append(copied_words(each.copies, result).rstrip("."))
    return "; ".join(said) or None


def _curves(key: str, result: SweepResult) -> Iterator[Charts]:
    known = [each for each in result.points if each.point.step is not None]
    if len({each.point.step for each in known}) < 2:
        return
    first, lines = result.points[0], _lines(known)
    kid, recall = first.fidelity.floor.kid, first.diversity.floor.recall
    charts = [
        _curve(key, "KID", lines, lambda each: each.fidelity.headline.kid, kid.value if kid else None),
        _curve(key, "Recall", lines, lambda each: each.diversity.headline.recall, recall.value if recall else None),
    ]
    if first.copies:
        charts.append(_curve(key, "Share of copies", lines, _share_of_copies, first.copies.floor))
    yield Charts(charts, "A line for each way of drawing; dashed: the floor, real patients beside other real patients.")


def _curve(
    key: str,
    what: str,
    lines: dict[str, list[PointResult]],
    number: Callable[[PointResult], Interval | None],
    floor: float | None,
) -> Chart:
    from cxr_core.report import figures

    found = {
        name: [(each.point.step or 0, i.value, i.low, i.high) for each in line if (i := number(each))]
        for name, line in lines.items()
    }
    named = f"{what.lower().replace(' ', '-')}-{key}"
    return figures.curves(named, f"{what} over training steps", found, floor, _alt(what, found))


def _share_of_copies(each: PointResult) -> Interval | None:
    return each.copies.share if each.copies else None


def _lines(known: list[PointResult]) -> dict[str, list[PointResult]]:
    """Points of one stage and guidance, in order of steps."""
    lines: dict[str, list[PointResult]] = {}
    for each in sorted(known, key=lambda result: result.point.step or 0):
        guidance = "" if each.point.guidance is None else f"guidance {each.point.guidance:g}"
        lines.setdefault(guidance or each.point.stage, []).append(each)
    return lines


def _alt(what: str, lines: dict[str, list[tuple[int, float, float, float]]]) -> str:
    said = [
        f"{name}: {', '.join(f'{value:.3g} at step {step}' for step, value, _, _ in line)}"
        for name, line in lines.items()
    ]
    return f"{what} over training steps. {'; '.join(said)}."


def _copies(result: SweepResult) -> Iterator[Block]:
    """What the search for copies says of each point, and its nearest pairs."""
    found = [(each.point.words, each.copies) for each in result.points if each.copies]
    if found:
        said = [Text(f"{words}: {copied_words(copies, result)}") for words, copies in found]
        pairs = [pair for _, copies in found for pair in copies.pairs]
        yield Details("Copies of training images, point by point", [*said, pair_table(pairs)])


def _test_words(result: SweepResult) -> str:
    if result.test is None:
        return "Official test patients were looked at for no point."
    headline, spread = result.test.fidelity.headline, result.test.spread
    found = []
    if headline.kid and headline.fid:
        found += [f"KID {interval_words(headline.kid, '.3g')}", f"FID {interval_words(headline.fid, '.3g')}"]
    if spread.recall is not None:
        found += [
            f"{name} {share_cell(getattr(spread, name))}" for name in ("precision", "recall", "density", "coverage")
        ]
    reasons = [reason for reason in (headline.not_computed, spread.not_computed) if reason]
    missing = f" Not computed: {listed(reasons)}." if reasons else ""
    numbers = f" The recommended one has there: {listed(found)}." if found else ""
    return f"Official test patients were looked at for one point, once.{numbers}{missing}"
