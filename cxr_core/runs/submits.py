"""What was handed to a scheduler: one folder a call, `<stage>/submits/0001/`, with the script and what it is to do.

`submit.json` is written before the scheduler is asked, without a job id, and again with it. If the answer is lost in
between, the id that job and record share tells whether the job is there.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cxr_core.runs.door import STRICT, BadFileError, Name, Place, below
from cxr_core.runs.files import json_text
from cxr_core.runs.plan import Plan
from cxr_core.runs.records import Count, Seconds

FORMAT = 1

Part = Literal["freeze", "shards", "finalize", "resume", "canary"]
"""Freeze the plan of a stage, make shards of it, finalize it: a submit does one or more of these, in this order. Or it
resumes the whole run, or tries a stage with its first shard."""


@dataclass(frozen=True)
class Submit:
    """One call of the scheduler: an array of `num_tasks` tasks; task i makes pack i.

    `packs` lists the shard ids of each task. It is None where the plan is not frozen yet: then task i makes the i-th
    of `num_tasks` equal parts of it. `resources` are those asked for, `cwd` is where relative paths of the config
    start, and `waits_for` are the jobs that end before this one starts. `raised` holds what is asked for otherwise than
    the profile says (`mem`, `time`, `exclude`), because of how earlier attempts ended. `job_id` is the number of the
    job in `slurm_cluster`, the cluster to which it was sent by name; empty for the one that Slurm asks by itself.
    """

    __pydantic_config__ = STRICT

    id: Name
    stage: Name
    does: Annotated[tuple[Part, ...], Field(min_length=1)]
    num_tasks: Count
    cluster: str
    cwd: str
    packs: Sequence[Sequence[Name]] | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    visible_seconds: Seconds = 0.0
    waits_for: Sequence[str] = ()
    raised: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    job_id: str | None = None
    slurm_cluster: str = ""
    format: int = FORMAT

    @property
    def computes(self) -> bool:
        """Whether it makes shards, or one to try."""
        return "shards" in self.does or "canary" in self.does

    @classmethod
    def read(cls, folder: Path) -> "Submit":
        """Read `submit.json`. Raises BadFileError if it is damaged."""
        try:
            found = below(folder, 3).json("submit.json", cls)
        except (BadFileError, FileNotFoundError) as error:
            what = error.what if isinstance(error, BadFileError) else "it is not there"
            hint = "remove the folder and submit again"
            raise BadFileError(f"not the record of a submit: {what}", folder / "submit.json", hint) from error
        return replace(found, waits_for=tuple(found.waits_for))

    def write(self, folder: Path) -> None:
        below(folder, 3).write("submit.json", json_text(vars(self)))

    def sent(self, job_id: str) -> "Submit":
        """The same, with the scheduler's answer: `123`, or `123;cluster`."""
        number, _, cluster = job_id.partition(";")
        return replace(self, job_id=number, slurm_cluster=cluster or self.slurm_cluster)

    def job_name(self, run: str) -> str:
        """The job's name in the queue. It ends with the id, by which the job is found again."""
        return f"cxr-{run}-{self.stage}-{self.id}"

    def pack(self, plan: Plan, index: int) -> list[str]:
        """Shard ids of task `index`."""
        if self.packs is not None:
            return list(self.packs[index])
        ids = [shard.id for shard in plan.shards]
        first, last = (len(ids) * i // self.num_tasks for i in (index, index + 1))
        return ids[first:last]


def new_id() -> str:
    """Eight hexadecimal digits of chance."""
    return os.urandom(4).hex()


def submit_folders(stage_folder: Path) -> list[Path]:
    """The folders of all submits of a stage whose record was written, in order."""
    submits = below(stage_folder, 1) / "submits"
    folders = [submits / entry.name for entry in submits.entries() if entry.is_folder]
    return [folder.path for folder in folders if folder.has("submit.json")]


def submits_of_run(root: Path) -> dict[Path, Submit]:
    """All submits of a run, whose stages are the folders in it, by their folders."""
    stages = [root / entry.name for entry in Place(root).entries() if entry.is_folder]
    return {folder: Submit.read(folder) for stage in stages for folder in submit_folders(stage)}


def new_folder(stage_folder: Path) -> Path:
    """Make the next folder: 0001, 0002 ... Raises FileExistsError if another launcher makes it at this moment."""
    stage_folder.parent.mkdir(parents=True, exist_ok=True)
    submits = (below(stage_folder, 1) / "submits").make()
    numbers = [int(entry.name) for entry in submits.entries() if _NUMBER.fullmatch(entry.name)]
    name = f"{max(numbers, default=0) + 1:04d}"
    with submits.handle() as here:
        os.mkdir(name, dir_fd=here)
    return submits.path / name


_NUMBER = re.compile("[0-9]{1,9}")
