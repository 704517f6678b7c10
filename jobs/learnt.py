"""What a model learns from: one function for every kind, so that none forgets whom it must not be tested on."""

from collections.abc import Mapping
from pathlib import Path

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import Findings
from cxr_core.data.latents import LatentCache
from cxr_core.data.positions.split import BoxedSplit, together
from cxr_core.generation.series import moved_patients
from cxr_core.models.checkpoints import ModelKind, final_checkpoint
from cxr_core.models.training_data import TrainingData, read_training_data

JUDGES: Mapping[str, ModelKind] = {"judge": "classifier", "gate": "classifier", "localiser": "localiser"}
"""Role of an input -> the model that stands in it, and that learnt from patients too."""


def learnt_from(inputs: Mapping[str, Path]) -> TrainingData | None:
    """What a train stage with these inputs learns from: a Dataset or latents of one, latents of a prior, and what is
    behind the base. None if no image is behind it, as far as the base says.

    Test patients who were moved for their boxes are named whichever way they come in.
    """
    base = read_training_data(final_checkpoint(inputs["base"])) if "base" in inputs else None
    if "latents" in inputs:
        cache = LatentCache.open(inputs["latents"])
        rows, findings, digest = cache.rows, Findings(cache.info.findings), cache.info.dataset
        caches = [cache, *([LatentCache.open(inputs["prior"])] if "prior" in inputs else [])]
        splits = [BoxedSplit.model_validate(each.info.boxed_split) for each in caches if each.info.boxed_split]
        return TrainingData.of(rows, findings, digest, base, together(splits))
    if "dataset" in inputs:
        dataset = Dataset.open(inputs["dataset"])
        return TrainingData.of(dataset.rows, dataset.findings, dataset.info.digest, base, moved_patients(dataset))
    return base


def moved_for_judges(inputs: Mapping[str, Path]) -> BoxedSplit | None:
    """Test patients from whom the models in `JUDGES` learnt, as far as these say so."""
    found = [
        read_training_data(final_checkpoint(inputs[role], kind)) for role, kind in JUDGES.items() if role in inputs
    ]
    return together([split for learnt in found if learnt for split in learnt.boxed_splits])
