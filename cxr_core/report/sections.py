"""The sections of the page, in the order in which a reader asks."""

from cxr_core.report.bank import bank_section
from cxr_core.report.benefit import benefit_section
from cxr_core.report.blocks import Section
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


def sections(run: RunView, price: float | None = None) -> list[Section]:
    """All sections; each renders what is finished and names what is not. `price` is that of a GPU-hour."""
    return [
        summary(run),
        dataset_section(run),
        histogram_section(run),
        problems_section(run),
        examples_section(run),
        training_section(run),
        bank_section(run),
        systems_section(run),
        pictures_section(run),
        gate_section(run),
        judge_section(run),
        faithfulness_section(run),
        position_section(run),
        calibration_section(run),
        fidelity_section(run),
        diversity_section(run),
        memorisation_section(run),
        sweep_section(run),
        utility_section(run),
        benefit_section(run),
        time_section(run),
        cost_section(run, price),
        provenance_section(run),
        glossary_section(),
    ]
