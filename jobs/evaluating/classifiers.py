"""Shards that train one classifier each, for every arm and seed of several experiments."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt

Arm = TypeVar("Arm", bound=str)

Experiment: TypeAlias = tuple[Sequence[Arm], Sequence[int]]
"""Its arms and its seeds."""


def classifier_shards(part: str, experiments: Sequence[Experiment[Arm]]) -> list[Shard]:
    """A shard a classifier, experiment by experiment; what it is to train is in its `extra`."""
    tasks = [(i, arm, seed) for i, (arms, seeds) in enumerate(experiments) for arm in arms for seed in seeds]
    names = ("entry", "arm", "seed")
    return [Shard(_id(part, *task), i, i + 1, dict(zip(names, task, strict=True))) for i, task in enumerate(tasks)]


def classifier_receipts(
    part: str, entry: int, experiment: Experiment[Arm], receipts: Mapping[str, Receipt]
) -> dict[tuple[Arm, int], Receipt]:
    """The receipts of one experiment's classifiers, by arm and seed."""
    arms, seeds = experiment
    return {(arm, seed): receipts[_id(part, entry, arm, seed)] for arm in arms for seed in seeds}


def _id(part: str, entry: int, arm: str, seed: int) -> str:
    return f"{part}{entry:02d}-{arm}-{seed}"
