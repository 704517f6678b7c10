"""Diversity: how real and synthetic images cover each other, and whether the generator repeats itself."""

from collections.abc import Iterator

from cxr_core.evaluation.diversity.results import Alike, DiversityResult, Spread
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import Metrics
from cxr_core.report.blocks import Block, Column, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, plain, several

_SHARES = ("precision", "recall", "density", "coverage")


def diversity_section(run: RunView) -> Section:
    """Two tables an evaluate stage with fidelity."""
    absent = "No stage of this run was asked for fidelity, which diversity is measured with."
    return Section("diversity", "Diversity", each_evaluation(run, _stage, absent))


def _stage(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    if metrics.diversity:
        yield from _diversity(metrics.diversity)


def share_cell(found: Interval | None) -> str:
    """A share or density with two decimals and its interval; a dash where there is none."""
    return "–" if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def alike_cell(found: Alike) -> str:
    """MS-SSIM with its interval."""
    number = found.ms_ssim
    return "–" if number is None else f"{number.value:.3f} ({number.low:.3f} to {number.high:.3f})"


def _diversity(result: DiversityResult) -> Iterator[Block]:
    yield Text(
        "Is every kind of real image drawn, and is every drawn image like a real one? Precision: synthetic images near "
        "a real one; recall: real images near a synthetic one (Kynkäänniemi et al. 2019, arXiv 1904.06991). Density "
        "and coverage (Naeem et al. 2020, arXiv 2002.09797) are the same, less moved by outliers. A model that draws "
        "few images again and again keeps its precision and loses recall and coverage."
    )
    yield _spreads(result)
    yield _alike(result)


def _spreads(result: DiversityResult) -> Table:
    rows = {
        "all synthetic – held-out": result.headline,
        "synthetic – half A of held-out": result.beside_floor,
        "floor: half B – half A of held-out": result.floor,
        **{plain(each.finding): each.spread for each in result.by_finding},
    }
    columns = [
        Column("comparison"),
        Column("n of each side", numeric=True),
        *(Column(n, numeric=True) for n in _SHARES),
    ]
    cells = [[name, count(found.num_images), *_shares(found)] for name, found in rows.items()]
    notes = [
        f"k = {result.neighbours}; one image a patient, and of each labels and view as many of each side as the side "
        "with the fewest has. All four change with n: compare the second row with the floor. In brackets: 95 % "
        "interval by random halves of patients and of synthetic images."
    ]
    notes += [f"“{name}”: not computed: {found.not_computed}." for name, found in rows.items() if found.not_computed]
    return Table("How real and synthetic images cover each other.", columns, cells, frozenset({0}), notes)


def _shares(found: Spread) -> list[str]:
    return [share_cell(getattr(found, name)) for name in _SHARES]


def _alike(result: DiversityResult) -> Table:
    rows = {"all": (result.synthetic, result.real)}
    rows |= {plain(each.finding): (each.synthetic, each.real) for each in result.by_finding}
    columns = [Column("images"), Column("synthetic, one prompt", numeric=True), Column("fours", numeric=True),
               Column("real, one labels and view", numeric=True), Column("fours", numeric=True)]  # fmt: skip
    cells = [
        [name, alike_cell(ours), count(ours.num_groups), alike_cell(real), count(real.num_groups)]
        for name, (ours, real) in rows.items()
    ]
    notes = [
        f"MS-SSIM of {several(result.num_scales, 'scale')} at {result.size} pixels a side, six pairs of four images; 1 "
        "is equal images. Real images are of four patients. In brackets: 95 % interval over fours."
    ]
    return Table("How alike images of one prompt are.", columns, cells, frozenset({0}), notes)
