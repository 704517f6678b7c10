"""The generate job: a request becomes an exact list of images, the list becomes tar shards of a synthetic Dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.generation.settings import GenerateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output

Settings = GenerateStage


def estimate(settings: GenerateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    raise NotImplementedError


def freeze(context: Context, work: Path) -> Draft:
    raise NotImplementedError


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    raise NotImplementedError


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    raise NotImplementedError
