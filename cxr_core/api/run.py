"""A run in a notebook: its stages, Datasets, models, losses and scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_core.api.dataset import OpenedDataset, open_dataset
from cxr_core.api.model import open_model
from cxr_core.api.scores import COLUMNS, scores_of
from cxr_core.errors import UserError
from cxr_core.models.checkpoints import read_checkpoints
from cxr_core.report.evaluation import read_metrics
from cxr_core.report.read import RunView, StageView, read_lines, read_run
from cxr_core.runs.run import Run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from cxr_core.evaluation.metrics import Metrics


def open_run(path: str | Path) -> "OpenedRun":
    """Open a run folder, such as `runs/demo`; the run may be at work meanwhile.

    Raises UserError where `path` is none, or its config is damaged.
    """
    Run.open(Path(path))
    return OpenedRun(Path(path))


class OpenedRun:
    """A run as its folder is now: each call looks anew. Stages are called by their names in the config."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<run {self.path}: {', '.join(stage.name for stage in self._view.stages)}>"

    @property
    def config(self) -> dict[str, Any]:
        """The run's config with every default written out."""
        return dict(self._view.config)

    def stages(self) -> pd.DataFrame:
        """A row a stage: kind, state in words, shards done, shards planned (NA before the plan), seconds of work."""
        rows = [
            {
                "stage": stage.name,
                "kind": stage.kind,
                "state": stage.state,
                "done": len(stage.done),
                "planned": stage.num_planned,
                "seconds": sum(stage.seconds.values()),
            }
            for stage in self._view.stages
        ]
        return pd.DataFrame(rows).astype({"planned": "Int64"}).set_index("stage")

    def dataset(self, stage: str) -> OpenedDataset:
        """The Dataset of a finished preprocess or generate stage."""
        return open_dataset(self._finished(stage, "preprocess", "generate").folder.path)

    def model(self, stage: str, step: int | None = None) -> "StableDiffusionPipeline":
        """The model of a finished train stage, as `open_model` opens it."""
        return open_model(self._finished(stage, "train").folder.path, step)

    def checkpoints(self, stage: str) -> pd.DataFrame:
        """A row a checkpoint of a finished train stage, by step: validation loss, and whether its weights are kept."""
        found = read_checkpoints(self._finished(stage, "train").folder.path)
        rows = [
            {"step": each.step, "validation_loss": each.validation_loss, "is_kept": each.path is not None}
            for each in found
        ]
        return pd.DataFrame(rows).set_index("step")

    def losses(self, stage: str) -> pd.DataFrame:
        """A row a step of a train stage, as far as it is: loss, learning rate, images a second, and what its model says
        besides. Empty while no interval is done."""
        view = self._stage(stage, "train")
        lines = [line for path in view.data("metrics") for line in read_lines(path, dict[str, Any])]
        return pd.DataFrame(lines).set_index("step") if lines else pd.DataFrame()

    def results(self, stage: str) -> "Metrics":
        """All that a finished evaluate stage found, with the reasons where a number could not be had."""
        return read_metrics(self._finished(stage, "evaluate"))

    def scores(self, stage: str | None = None) -> pd.DataFrame:
        """The measured numbers of an evaluate stage, or of all that are finished, as a tidy table.

        A row a number: stage, metric (fidelity, utility ...), name (the way to it in `results`), value, and low and
        high of its 95 % interval, NaN where it has none.
        """
        stages = [self._finished(stage, "evaluate")] if stage else [s for s in self._of_kind("evaluate") if s.is_done]
        rows = [{"stage": each.name, **row} for each in stages for row in scores_of(read_metrics(each))]
        return pd.DataFrame(rows, columns=["stage", *COLUMNS])

    @property
    def _view(self) -> RunView:
        return read_run(self.path)

    def _of_kind(self, *kinds: str) -> list[StageView]:
        return [stage for stage in self._view.stages if stage.kind in kinds]

    def _stage(self, name: str, *kinds: str) -> StageView:
        fitting = self._of_kind(*kinds)
        found = next((stage for stage in fitting if stage.name == name), None)
        if found is None:
            hint = f"there are: {', '.join(stage.name for stage in fitting) or 'none'}"
            raise UserError(f"no {' or '.join(kinds)} stage {name!r}", where=str(self.path), hint=hint)
        return found

    def _finished(self, name: str, *kinds: str) -> StageView:
        stage = self._stage(name, *kinds)
        if not stage.is_done:
            raise UserError(
                f"stage {name!r} is not finished: {stage.state}",
                where=str(self.path),
                hint=f"`cxr run CONFIG` or `cxr resume {self.path}` goes on with it",
            )
        return stage
