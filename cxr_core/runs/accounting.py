"""What the scheduler's accounts say of the tasks of a run, as they were last asked: `<run>/accounting.json`.

They are a second opinion. What is done is known from receipts, and how an attempt ended from itself where it could say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cxr_core.errors import UserError
from cxr_core.runs.door import STRICT, BadFileError, Place
from cxr_core.runs.files import json_text
from cxr_core.runs.records import Moment, OptionalName

FORMAT = 1

FILE = "accounting.json"

_WORDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "PREEMPTED": "preemption",
    "CANCELLED": "cancelled",
    "REQUEUED": "requeued",
}
"""State of a life -> why the attempt in it was killed. Other states say nothing of that."""

_SLACK = 5.0
"""Seconds by which the clocks of node and controller may differ when a life is matched with its attempt."""


@dataclass(frozen=True)
class Life:
    """One life of a task: from a start to an end, after which it may have been requeued.

    `job` is the task as Slurm names it (`81_4`), `state` its state in capitals; times are seconds since 1970, `end` is
    None while it runs.
    """

    __pydantic_config__ = STRICT

    job: OptionalName
    state: str
    start: Moment
    end: Moment | None
    node: str = ""

    @property
    def seconds(self) -> float:
        return self.end - self.start if self.end is not None else 0.0

    @property
    def why(self) -> str:
        """Why an attempt in it was killed, as far as its state tells."""
        return _WORDS.get(self.state, "") if self.end is not None else ""

    def holds(self, moment: float) -> bool:
        """Whether it was alive then."""
        return self.start - _SLACK <= moment and (self.end is None or moment <= self.end + _SLACK)


@dataclass(frozen=True)
class Accounting:
    """All lives that the scheduler knew of when it was asked (seconds since 1970), or why it told none."""

    __pydantic_config__ = STRICT

    asked: Moment = 0.0
    refusal: str = ""
    lives: tuple[Life, ...] = ()
    format: int = FORMAT

    @classmethod
    def read(cls, root: Path) -> "Accounting":
        """The last answer; an empty one where nobody has asked, or the file is damaged: it can be asked again."""
        try:
            return Place(root).json(FILE, cls)
        except (OSError, BadFileError):
            return cls()

    def write(self, root: Path) -> None:
        """Keep it for those who cannot ask. A run folder that may only be read is no obstacle."""
        try:
            Place(root).write(FILE, json_text(asdict(self)))
        except (OSError, UserError):
            return

    def life_of(self, job: str, started: float) -> Life | None:
        """The life of task `job` in which an attempt started."""
        found = [life for life in self._by_job.get(job, ()) if life.holds(started)]
        return max(found, key=lambda life: life.start, default=None)

    @cached_property
    def _by_job(self) -> dict[str, list[Life]]:
        found: dict[str, list[Life]] = {}
        for life in self.lives:
            found.setdefault(life.job, []).append(life)
        return found


class _Attempt(Protocol):
    @property
    def job(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Comparison:
    """The accounts beside the attempts: hours of processes by each, over lives that have both and have ended, and
    lives that ended without leaving an attempt, whose task did not come as far as its first shard."""

    num_lives: int = 0
    hours_by_scheduler: float = 0.0
    hours_by_attempts: float = 0.0
    without_attempt: Sequence[Life] = ()


def compare(accounting: Accounting, attempts: Iterable[_Attempt]) -> Comparison:
    """Both ledgers side by side."""
    seconds: dict[Life, float] = {}
    for attempt in attempts:
        life = accounting.life_of(attempt.job, attempt.started) if attempt.job else None
        if life is not None:
            seconds[life] = seconds.get(life, 0.0) + attempt.seconds
    over = [life for life in seconds if life.end is not None]
    # One whose log could not be opened has failed before a second was over.
    came = (life for life in accounting.lives if life.end is not None and (life.seconds > 0 or life.state == "FAILED"))
    missing = [life for life in came if life not in seconds]
    return Comparison(
        len(over), sum(life.seconds for life in over) / 3600, sum(seconds[life] for life in over) / 3600, missing
    )
