"""The run folder as the report sees it. What is damaged is named and left out; what is not there is None."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from cxr_core.data import problems
from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.runs.code import RunRecord
from cxr_core.runs.door import BadFileError, BadFiles, below, checked, parse, place_of
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.plan import Plan
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import Run, StageFolder

T = TypeVar("T")


@dataclass(frozen=True)
class StageView:
    """One stage of the config with what its folder holds so far."""

    settings: Mapping[str, Any]
    folder: StageFolder
    bad_files: BadFiles = field(default_factory=BadFiles)

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def kind(self) -> str:
        return str(self.settings["kind"])

    @property
    def model(self) -> str:
        """Which model a train stage trains; empty for other kinds."""
        return str(self.settings.get("model", ""))

    @property
    def origin(self) -> str:
        """Of a Dataset's images: "real", "phantom" (drawn by a procedure) or "synthetic" (drawn by a model)."""
        if self.kind == "generate":
            return "synthetic"
        return "phantom" if self.settings.get("data", {}).get("kind") == "phantom" else "real"

    @property
    def is_done(self) -> bool:
        return self.facts is not None

    @cached_property
    def facts(self) -> Mapping[str, Any] | None:
        """stage.json, or None while the stage is not finished."""
        return self.bad_files.read(self.folder.facts, None)

    @cached_property
    def num_planned(self) -> int | None:
        """Shards of the frozen plan, or None before it is frozen."""
        return len(self._plan.shards) if self._plan else None

    @cached_property
    def num_items(self) -> int:
        """Items (images, steps) of the shards that have a receipt."""
        return sum(shard.num_items for shard in self._plan.shards if shard.id in self.done) if self._plan else 0

    @cached_property
    def done(self) -> set[str]:
        """Ids of the shards that have a receipt."""
        return self.bad_files.read(self.folder.done, set())

    @cached_property
    def receipts(self) -> list[Receipt]:
        """Receipts of all committed shards, by shard id, without those that cannot be read."""
        return self.bad_files.read(lambda: self.folder.receipts_of(sorted(self.done), self.bad_files), [])

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds of work on shards, summed over their receipts, and of finalize."""
        shards = sum(r.seconds.get("make", 0.0) + r.seconds.get("place", 0.0) for r in self.receipts)
        recorded = (self.facts or {}).get("seconds", {})
        return {"shards": shards, "finalize": recorded.get("finalize", 0.0)}

    @cached_property
    def attempts(self) -> list[str]:
        """The outcome of each attempt, in the order in which they started: "done", "failed", "running" ..."""
        return [attempt.outcome for attempt in self.bad_files.read(partial(read_attempts, self.folder.path), [])]

    @property
    def state(self) -> str:
        """ "done", how many shards are, or "not run yet"."""
        if self.is_done:
            return "done"
        if self.num_planned is None:
            return "not run yet"
        return f"{len(self.done):,} of {self.num_planned:,} shards"

    @cached_property
    def dataset(self) -> Dataset | None:
        """The Dataset that a finished preprocess or generate stage is."""
        return Dataset.open(self.folder.path) if self.is_done and self.kind in ("preprocess", "generate") else None

    @cached_property
    def problems(self) -> pd.DataFrame | None:
        """problems.csv as texts, or None if the stage wrote none."""
        path = self.folder.path / "problems.csv"
        return read_problems(path) if self.has(path) else None

    def has(self, path: Path) -> bool:
        """Whether there is anything at a path of the stage, a link included, which is refused where it is read."""
        place, name = place_of(path, self.folder.path.parent)
        return place.has(name)

    def data(self, role: str) -> Iterator[Path]:
        """The data of `role` of each committed shard, in the plan's order, without those that a keep rule removed."""
        for receipt in self.receipts:
            if any(data.role == role for data in receipt.data):
                path = receipt.path(self.folder.path, role)
                if self.has(path):
                    yield path

    @cached_property
    def _plan(self) -> Plan | None:
        return self.bad_files.read(self.folder.plan, None)


@dataclass(frozen=True)
class RunView:
    """All that the report is a function of."""

    root: Path
    provenance: Mapping[str, Any]
    config: Mapping[str, Any]
    config_text: str
    stages: tuple[StageView, ...]
    bad_files: BadFiles = field(default_factory=BadFiles)
    """Of the run and all its stages, as far as they were met."""

    @property
    def name(self) -> str:
        return str(self.provenance.get("name", self.root.name))

    @property
    def as_run(self) -> Run:
        return Run(self.root, self.config)

    def of_kind(self, kind: str) -> tuple[StageView, ...]:
        return tuple(stage for stage in self.stages if stage.kind == kind)

    def input_of(self, stage: StageView, role: str) -> StageView | None:
        """The stage of this run that `stage` takes in `role`; None where the input is a folder elsewhere."""
        wanted = stage.settings.get("inputs", {}).get(role)
        return next((other for other in self.stages if other.name == wanted), None)


def read_run(root: Path) -> RunView:
    """Open a run folder. Raises UserError if `root` is none, or if its config is damaged."""
    run, bad = Run.open(root), BadFiles()
    stages = tuple(StageView(stage, run.stage(stage["name"]), bad) for stage in run.config["stages"])
    text = run.place.read("config.yaml").decode()
    return RunView(root, bad.read(lambda: _provenance(run), {}), run.config, text, stages, bad)


def _provenance(run: Run) -> dict[str, Any]:
    """run.json, its keys in their order."""
    try:
        found: dict[str, Any] = run.place.json("run.json", dict)
    except FileNotFoundError as error:
        raise BadFileError("it is not there", run.root / "run.json") from error
    checked(found, RunRecord, run.root / "run.json")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a run. Raises BadFileError naming `path` if there is none."""
    return parse(_text(path), dict, path)


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """The JSON values of a .jsonl file of a run. Raises BadFileError naming file and line if one is no `kind`."""
    return [parse(line, kind, path, line=number) for number, line in enumerate(_text(path).splitlines(), 1)]


def _text(path: Path) -> bytes:
    """Of a file in a folder of a stage, by its path there: no link on the way, nor in its place, is followed."""
    try:
        return below(path.parent, 2).read(path.name)
    except OSError as error:
        raise BadFileError(f"cannot be read: {error.strerror}", path) from error


def read_problems(path: Path) -> pd.DataFrame:
    """The rows of a problems.csv as texts. Raises UserError if a column is missing."""
    try:
        table = problems.read_problems(io.BytesIO(below(path.parent, 1).read(path.name)))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as CSV ({error})", where=str(path), hint="run its stage again") from error
    missing = [name for name in problems.COLUMNS if name not in table]
    if missing:
        raise UserError(f"lacks the columns {', '.join(missing)}", where=str(path), hint="run its stage again")
    return table
