"""Pictures of real beside synthetic images: one shard draws them all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset

_ID = "pictures"
_PICTURE_BYTES = 300_000


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """One shard of as many pictures as the settings name."""
    num_pictures = len(settings.grids.findings) or 6
    return Estimate(1, 1, num_pictures + 3, num_pictures * _PICTURE_BYTES)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """The one shard, and which findings it shows."""
    from cxr_core.evaluation.cohort import check_findings
    from cxr_core.evaluation.pictures import findings_shown
    from cxr_core.runs.files import write_json

    settings: EvaluateStage = context.settings
    check_findings(
        settings.grids.findings, datasets["real"], datasets["synthetic"], where=f"stage {settings.name!r}, grids"
    )
    write_json(work / "grids.json", {"format": 1, "findings": findings_shown(settings.grids, datasets["synthetic"])})
    return [Shard(_ID, 0, 1)]


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Draw them."""
    from cxr_core.evaluation.pictures import draw_grids
    from cxr_core.runs.files import read_json

    names = read_json(context.plan_folder / "grids.json")["findings"]
    return draw_grids(
        names, context.settings.grids, datasets["real"], datasets["synthetic"], seed=context.seed, work=work
    )


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Where they lie."""
    from cxr_core.evaluation.pictures import committed_grids
    from cxr_core.runs.files import read_json

    listed = read_json(receipts[_ID].path(context.folder, "list"))["grids"]
    return {"grids": committed_grids(listed, receipts[_ID])}
