"""What was handed to a scheduler: one folder a call, `<stage>/submits/0001/`, with the script and what it is to do.

`submit.json` is written before the scheduler is asked, without a job id, and again with it. If the answer is lost in
between, the id that job and record share tells whether the job is there.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.plan import Plan

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

    id: str
    stage: str
    does: tuple[Part, ...]
    num_tasks: int
    cluster: str
    cwd: str
    packs: Sequence[Sequence[str]] | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    visible_seconds: float = 0.0
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
        """Read `submit.json`. Raises UserError if it is damaged."""
        path = folder / "submit.json"
        try:
            value = read_json(path)
            return cls(**value | {"does": tuple(value["does"]), "waits_for": tuple(value["waits_for"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"not the record of a submit ({error!r})", where=str(path), mend="remove the folder and submit again"
            ) from error

    def write(self, folder: Path) -> None:
        write_json(folder / "submit.json", vars(self))

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
    return sorted(path.parent for path in (stage_folder / "submits").glob("*/submit.json"))


def new_folder(stage_folder: Path) -> Path:
    """Make the next folder: 0001, 0002 ... Raises FileExistsError if another launcher makes it at this moment."""
    submits = stage_folder / "submits"
    submits.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in submits.iterdir() if path.name.isdigit()]
    folder = submits / f"{max(numbers, default=0) + 1:04d}"
    folder.mkdir()
    return folder
