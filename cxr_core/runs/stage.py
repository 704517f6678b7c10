"""The contract between a run and the job of a stage: freeze once, run each shard, finalize.

A job is a module (`jobs/preprocess.py` ...) with the four functions of `StageJob`. None of them touches receipts, locks
or final names: the run does (see `commit` and `pack`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt


@dataclass(frozen=True)
class Context:
    """All that a shard is a function of, beside the shard itself.

    `settings` is the stage's validated pydantic model, `inputs` maps a role ("dataset", "vae" ...) to the folder of an
    earlier stage or a path of the user's, `seed` is derived from the run's seed and the stage's name, and `folder` is
    the stage's folder (its plan's side files are in `folder / "plan"`).
    """

    settings: Any
    inputs: Mapping[str, Path]
    seed: int
    folder: Path

    @property
    def plan_folder(self) -> Path:
        return self.folder / "plan"

    @property
    def cache_folder(self) -> Path:
        """What the stages of a run may share and anyone may remove."""
        return self.folder.parent / "cache"


@dataclass(frozen=True)
class Draft:
    """What `freeze` decides: the shards; side files are written by it into the folder it is given."""

    shards: Sequence[Shard]
    chain: bool = False


@dataclass(frozen=True)
class Output:
    """What one shard made, still under temporary names.

    `paths` maps a role ("tar", "rows", "checkpoint") to a file or folder in the shard's work folder; its ending is
    kept in the final name. `digest` is equal whenever the content is (for images: over decoded pixels and captions).
    `problems` are rows of problems.csv.
    """

    paths: Mapping[str, Path]
    digest: str
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[Mapping[str, str]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost, known before its inputs exist. Bytes are of the files that stay."""

    num_items: int
    num_shards: int
    num_files: int
    num_bytes: int
    notes: Sequence[str] = ()
    image_size: int | None = None
    """Pixels a side, of a stage that makes images, where it is known before it runs."""
    like: Path | None = None
    """Of a stage that makes a model: a folder with one of the same sizes, where there is one before it runs."""


class StageJob(Protocol):
    """What a stage's module offers.

    One that reads much outside of the run may have four more: `sources(settings)`, its files in place of all that
    settings name; `frozen(context)`, called when its plan was just frozen; `source_changes(context, plan, files,
    is_finished=)`, a closer look at what came of changed files; and `estimate_planned(settings, num_items)`.
    """

    def estimate(self, settings: Any, inputs: Mapping[str, Estimate | Path]) -> Estimate:
        """The size of the work, from settings and the estimates of earlier stages (or paths given by the user)."""

    def freeze(self, context: Context, work: Path) -> Draft:
        """Decide the shards; write side files (e.g. a table of all items) into `work`."""

    def run_shard(self, context: Context, shard: Shard, work: Path) -> Output:
        """Make one shard's data in the empty folder `work`. A function of its arguments alone."""

    def finalize(self, context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
        """With every receipt there: write what readers use (an index). Idempotent. Returns facts, with "digest"."""
