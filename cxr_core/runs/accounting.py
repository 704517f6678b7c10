"""What the scheduler's accounts say of the tasks of a run, as they were last asked: `<run>/accounting.json`.

They are a second opinion. What is done is known from receipts, and how an attempt ended from itself where it could say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AliasChoices, Field

from cxr_core.errors import UserError
from cxr_core.runs.causes import BY_STATE
from cxr_core.runs.door import STRICT, BadFileError, Place
from cxr_core.runs.files import json_text
from cxr_core.runs.records import Moment, OptionalName

FORMAT = 1

FILE = "accounting.json"

_SLACK = 5.0
"""Seconds by which the clocks of node and controller may differ when an account is matched with its attempt."""


@dataclass(frozen=True)
class Account:
    """What the scheduler says of one start of a task, after whose end it may have been requeued.

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
    def cause(self) -> str:
        """Why an attempt in it was killed, as far as its state tells."""
        return BY_STATE.get(self.state, "") if self.end is not None else ""

    def holds(self, moment: float) -> bool:
        """Whether it ran then."""
        return self.start - _SLACK <= moment and (self.end is None or moment <= self.end + _SLACK)


@dataclass(frozen=True)
class Accounting:
    """All starts of tasks that the scheduler knew of when it was asked (seconds since 1970), or why it told none."""

    __pydantic_config__ = STRICT

    asked: Moment = 0.0
    refusal: str = ""
    starts: Annotated[tuple[Account, ...], Field(validation_alias=AliasChoices("starts", "lives"))] = ()
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

    def of(self, job: str, moment: float) -> Account | None:
        """Of the start of task `job` in which an attempt began at `moment`."""
        found = [account for account in self._by_job.get(job, ()) if account.holds(moment)]
        return max(found, key=lambda account: account.start, default=None)

    @cached_property
    def _by_job(self) -> dict[str, list[Account]]:
        found: dict[str, list[Account]] = {}
        for account in self.starts:
            found.setdefault(account.job, []).append(account)
        return found


class _Attempt(Protocol):
    @property
    def job(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class AccountsComparison:
    """The accounts beside the attempts: hours of processes by each, over the starts of tasks that have both and have
    ended, and those that ended without leaving an attempt: the task did not come as far as its first shard."""

    num_starts: int = 0
    hours_by_scheduler: float = 0.0
    hours_by_attempts: float = 0.0
    without_attempt: Sequence[Account] = ()


def compare(accounting: Accounting, attempts: Iterable[_Attempt]) -> AccountsComparison:
    """Both ledgers side by side."""
    seconds: dict[Account, float] = {}
    for attempt in attempts:
        account = accounting.of(attempt.job, attempt.started) if attempt.job else None
        if account is not None:
            seconds[account] = seconds.get(account, 0.0) + attempt.seconds
    over = [account for account in seconds if account.end is not None]
    # One whose log could not be opened has failed before a second was over.
    came = [each for each in accounting.starts if each.end is not None and (each.seconds > 0 or each.state == "FAILED")]
    return AccountsComparison(
        len(over),
        sum(account.seconds for account in over) / 3600,
        sum(seconds[account] for account in over) / 3600,
        [account for account in came if account not in seconds],
    )
