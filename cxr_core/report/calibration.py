"""Are the judge's scores probabilities, on real patients and on synthetic images; and in which groups of patients."""

from collections.abc import Iterator

from cxr_core.evaluation.calibration.results import CalibratedFinding, Calibration, CalibrationResult
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import Metrics
from cxr_core.report.blocks import Block, Chart, Charts, Column, Details, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.faithfulness import number
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, plain, several


def calibration_section(run: RunView) -> Section:
    """One table an evaluate stage that asked a judge."""
    return Section("calibration", "The judge’s scores", each_evaluation(run, _stage))


def _stage(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.calibration
    if result is None:
        yield Text(f"Stage “{stage.name}” asked no judge.", "absent")
        return
    taken_back = (
        " The judge was trained with rare findings weighing more; that is taken back here, by Bayes’ rule."
        if result.unweighted
        else ""
    )
    yield Text(
        "Are the judge’s scores probabilities? On synthetic images the prompt is the truth: scores that are further "
        "off than on real patients mean that findings are clearer, fainter or rarer in the images than in what was "
        f"asked for.{taken_back}"
    )
    yield _table(result)
    charts = [_chart(f"calibration-{stage.name}-{i}", one) for i, one in enumerate(result.findings) if one.real]
    if charts:
        yield Details(
            "Reliability: share of images with the finding against the judge’s score", [Charts(charts, _BINS)]
        )
    yield Details("The judge by sex, age and view of real patients", [_groups(result)])


_BINS = "Ten bins of equally many images. On the dashed line scores are probabilities."

_HEADS = ("with / without", "AUROC", "Brier score", "calibration error", "by chance alone")


def _table(result: CalibrationResult) -> Table:
    columns = [Column("finding"), Column("images"), *(Column(head, numeric=True) for head in _HEADS)]
    rows = []
    for one in result.findings:
        for what, side, reason in (
            (f"real, {result.split}", one.real, one.real_not_computed),
            ("synthetic", one.synthetic, one.synthetic_not_computed),
        ):
            cells = _cells(side) if side else [f"not computed: {plain(reason or '')}", *["–"] * (len(_HEADS) - 1)]
            rows.append([plain(one.finding) if what != "synthetic" else "", what, *cells])
    rows.append(["mean of findings", f"real, {result.split}", "", _mean(result, "real"), "", "", ""])
    rows.append(["", "synthetic", "", _mean(result, "synthetic"), "", "", ""])
    notes = [
        "In brackets: 95 % intervals over patients, or over synthetic images. Calibration error: mean distance of "
        "score and share in ten bins of equally many images; by chance alone: what true probabilities would have. "
        "Labels as the Dataset records them; those of ChestX-ray14 are text-mined from reports."
    ]
    return Table("The judge’s scores of all views together.", columns, rows, notes=notes)


def _cells(side: Calibration) -> list[str]:
    counts = f"{count(side.num_with)} / {count(side.num_without)}"
    return [counts, number(side.auroc), _three(side.brier), _three(side.ece), f"{side.ece_floor:.3f}"]


def _mean(result: CalibrationResult, side: str) -> str:
    """The mean AUROC over the findings that have one on this side."""
    known = [found.auroc.value for one in result.findings if (found := getattr(one, side)) is not None]
    return f"{sum(known) / len(known):.2f}, of {several(len(known), 'finding')}" if known else "–"


def _three(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _chart(key: str, one: CalibratedFinding) -> Chart:
    from cxr_core.report import figures

    sides = [("real", figures.REAL, one.real), ("synthetic", figures.SYNTHETIC, one.synthetic)]
    lines = [
        (name, colour, [(b.score, b.share) for b in side.bins]) for name, colour, side in sides if side is not None
    ]
    name = plain(one.finding)
    alt = f"{name}: " + "; ".join(
        f"{side}: " + ", ".join(f"score {score:.2f}, share {share:.2f}" for score, share in points)
        for side, _, points in lines
    )
    return figures.reliability(key, name, lines, f"{alt}.")


def _groups(result: CalibrationResult) -> Table:
    columns = [Column("group"), Column("finding"), Column("with / without"), Column("AUROC, views matched")]
    rows = [
        [
            f"{one.by} {one.group}",
            plain(one.finding),
            f"{count(one.num_with)} / {count(one.num_without)}, {several(one.num_patients, 'patient')}",
            number(one.auroc) if one.auroc else f"not computed: {plain(one.not_computed or '')}",
        ]
        for one in result.groups
    ]
    return Table("The judge on real patients of each group; nothing is corrected for being many.", columns, rows)
