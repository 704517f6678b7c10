"""The evaluate job: pictures and utility experiments that compare a synthetic Dataset with the real one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output

Settings = EvaluateStage


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    raise NotImplementedError


def freeze(context: Context, work: Path) -> Draft:
    raise NotImplementedError


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    raise NotImplementedError


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    raise NotImplementedError
