"""Checkpoints that a generate stage asks for are kept by the train stage of the run: told before training starts."""

from collections.abc import Iterator, Sequence
from typing import Any

from cxr_core.generation.settings import GenerateStage
from cxr_core.models.checkpoints import is_kept
from cxr_core.training.settings import TrainSettings


def checkpoint_mistakes(stages: Sequence[Any]) -> Iterator[str]:
    """Of each generate stage, the checkpoints that its model will not have once it is trained."""
    trained = {stage.name: stage for stage in stages if isinstance(stage, TrainSettings)}
    for stage in stages:
        if not isinstance(stage, GenerateStage):
            continue
        for name, step in _asked(stage):
            model = trained.get(name)
            if model and step not in (kept := _kept(model)):
                steps = ", ".join(map(str, kept))
                yield (
                    f"stage {stage.name!r} asks for checkpoint {step} of {name!r}, which keeps those of step {steps}: "
                    f"set `keep` of {name!r} to {{every: {model.checkpoint_every}}} to keep all"
                )


def _asked(stage: GenerateStage) -> Iterator[tuple[str, int]]:
    """(model, step)."""
    first = stage.models[0]
    yield from ((entry.model or first, entry.checkpoint) for entry in stage.requests if entry.checkpoint)
    if stage.sweep and stage.sweep.checkpoints != "all":
        yield from ((first, step) for step in stage.sweep.checkpoints)


def _kept(model: TrainSettings) -> list[int]:
    steps = [*range(model.checkpoint_every, model.steps, model.checkpoint_every), model.steps]
    keep, interval = model.keep, model.checkpoint_every
    return [step for step in steps if is_kept(step, model.steps, interval=interval, last=keep.last, every=keep.every)]
