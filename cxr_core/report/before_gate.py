"""How faithful images were before a gate chose among them, by the judge of the evaluation, who did not choose."""

from collections.abc import Iterator

from cxr_core.evaluation.metrics import FaithfulnessResult, Interval, Metrics
from cxr_core.report.blocks import Column, Table
from cxr_core.report.spell import plain, several


def before_gate(metrics: Metrics) -> Iterator[Table]:
    """A row for each finding whose faithfulness could be told before the gate or after it; nothing without a gate."""
    before, after = metrics.before_gate, metrics.faithfulness
    if before is None or after is None:
        return
    told = {name: (_pooled(before, name), _pooled(after, name)) for name in (one.finding for one in after.findings)}
    rows = [[plain(name), _cell(first), _cell(stored)] for name, (first, stored) in told.items() if first or stored]
    columns = [Column("finding"), Column("AUROC of first draws"), Column("AUROC of stored images")]
    notes = [
        f"First draws: a sample of {several(before.num_synthetic, 'image')}, kept whether the gate passed them or not. "
        f"Stored: all {several(after.num_synthetic, 'image')}. The judge is not the classifier that chose; both are "
        "over all views, with 95 % intervals over images."
    ]
    if rows:
        yield Table("What the gate changed, by the judge: before it chose, and after.", columns, rows, notes=notes)


def _pooled(result: FaithfulnessResult, finding: str) -> Interval | None:
    contrasts = [one.synthetic for one in result.findings if one.finding == finding]
    return next((each.auroc for each in (contrasts[0] if contrasts else ()) if each.within == "pooled"), None)


def _cell(auroc: Interval | None) -> str:
    return "not computed" if auroc is None else f"{auroc.value:.2f} ({auroc.low:.2f}–{auroc.high:.2f})"
