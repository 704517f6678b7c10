"""The latents job: images and prompts of a Dataset are encoded once, into a memory-mapped cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.training.settings import LatentsStage

Settings = LatentsStage


def estimate(settings: LatentsStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    raise NotImplementedError


def freeze(context: Context, work: Path) -> Draft:
    raise NotImplementedError


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    raise NotImplementedError


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    raise NotImplementedError
