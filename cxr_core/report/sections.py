"""The sections of the page, in the order in which a reader asks."""

from collections.abc import Callable
from functools import partial

from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.report.bank import bank_section
from cxr_core.report.benefit import benefit_section
from cxr_core.report.blocks import Column, Section, Table, Text
from cxr_core.report.calibration import calibration_section
from cxr_core.report.cost import cost_section
from cxr_core.report.datasets import dataset_section, examples_section, histogram_section, problems_section
from cxr_core.report.diversity import diversity_section
from cxr_core.report.evaluation import pictures_section
from cxr_core.report.faithfulness import faithfulness_section, judge_section
from cxr_core.report.fidelity import fidelity_section
from cxr_core.report.gate import gate_section
from cxr_core.report.memorisation import memorisation_section
from cxr_core.report.position import position_section
from cxr_core.report.provenance import glossary_section, provenance_section, time_section
from cxr_core.report.read import RunView
from cxr_core.report.summary import summary
from cxr_core.report.sweep import sweep_section
from cxr_core.report.systems import systems_section
from cxr_core.report.training import training_section
from cxr_core.report.utility import utility_section
from cxr_core.runs.door import BadFileError, printable

log = room_log(__name__)


def sections(run: RunView, price: float | None = None) -> list[Section]:
    """All sections; each renders what is finished and names what is not. `price` is that of a GPU-hour.

    A section whose files are damaged says so in its place, and as a warning in the log; the others stand. All such
    files are listed at the end.
    """
    makers: list[Callable[[RunView], Section]] = [
        summary,
        dataset_section,
        histogram_section,
        problems_section,
        examples_section,
        training_section,
        bank_section,
        systems_section,
        pictures_section,
        gate_section,
        judge_section,
        faithfulness_section,
        position_section,
        calibration_section,
        fidelity_section,
        diversity_section,
        memorisation_section,
        sweep_section,
        utility_section,
        benefit_section,
        time_section,
        partial(cost_section, price=price),
        provenance_section,
    ]
    found = [_made(make, run) for make in makers]
    if run.bad_files:
        found.append(_bad_files(run))
    return [*found, glossary_section()]


def _made(make: Callable[[RunView], Section], run: RunView) -> Section:
    try:
        return make(run)
    except UserError as error:
        if isinstance(error, BadFileError):
            run.bad_files.note(error)
        file = error.where.removeprefix(f"{run.root}/")
        return _not_shown(make, f"{file}: {error.what}")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return _not_shown(make, f"Its files say what this version does not expect ({type(error).__name__}: {error})")


def _not_shown(make: Callable[[RunView], Section], why: str) -> Section:
    name = getattr(make, "func", make).__name__.removesuffix("_section")
    said = printable(why[:500])
    log.warning("section %r of the report is not shown: %s", name, said)
    return Section(name, name.capitalize(), [Text(f"Not shown. {said}", "absent")])


def _bad_files(run: RunView) -> Section:
    """Files that are not what they must be, with what is wrong."""
    rows = [[str(error.path.relative_to(run.root)), error.what] for error in run.bad_files]
    note = "What they would tell is missing above. `cxr verify RUN --repair` sets them aside."
    return Section("bad-files", "Files that could not be read", [Table(note, [Column("file"), Column("why")], rows)])
