"""The ledger: every attempt of a run, how it ended, and what its time was good for. No receipt is opened for it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.runs.accounting import Accounting
from cxr_core.runs.attempt import Beat, End, State, life_of_beat, read_beat
from cxr_core.runs.door import BadFileError, BadFiles, Place, below, parse
from cxr_core.runs.ends import shell_ends, why_killed
from cxr_core.runs.last_words import last_words
from cxr_core.runs.run import Run


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt as its folder tells it. Times are seconds since 1970 in UTC, durations seconds.

    `cause` is how it ended ("finished", "shards failed", "refused" ...), "running", "killed" (gone without a word) or
    "silent" (its heart is not heard, but nothing says that it is dead). `detail` is what was said of the end; of a
    killed one, what killed it, where that is known. Of one without an end, `ended` is its last sign of life, or when it
    was killed. `shard` is what it works on, or was working on when it was lost, since `since`. `beat` is all that it
    said of itself last.
    """

    stage: str
    id: str
    folder: Path
    cause: str
    started: float
    ended: float
    useful: float = 0.0
    duplicated: float = 0.0
    failed: float = 0.0
    num_shards: int = 0
    num_duplicates: int = 0
    num_failed: int = 0
    gpus: int = 0
    host: str = ""
    node: str = ""
    job: str = ""
    restart: int = 0
    detail: str = ""
    shard: str = ""
    since: float = 0.0
    beat: Mapping[str, Any] = field(default_factory=dict)
    bad_files: Sequence[BadFileError] = ()
    """Its records that are not what they must be; what they would tell is not known."""

    @property
    def seconds(self) -> float:
        return max(self.ended - self.started, 0.0)

    @property
    def why(self) -> str:
        """What killed it; empty where nobody knows, and where nothing did."""
        return self.detail if self.cause == "killed" else ""

    @property
    def is_over(self) -> bool:
        """Whether it certainly does nothing any more."""
        return self.cause not in ("running", "silent")

    @property
    def under_way(self) -> float:
        """Seconds in the shard at hand, of which is not known yet what they were good for."""
        return max(self.ended - self.since, 0.0) if self.shard and not self.is_over else 0.0

    @property
    def lost(self) -> float:
        """Seconds in the shard that was lost with an attempt which was killed."""
        return max(self.ended - self.since, 0.0) if self.shard and self.cause == "killed" else 0.0


@dataclass(frozen=True)
class Spent:
    """Hours, of processes or of GPUs, by what they were good for.

    useful: on shards that were committed; duplicated: on shards that another attempt had committed first; failed: on
    shards that failed or were lost with their process; idle: everything else, mostly starting; under way: on shards
    that are being worked on.
    """

    useful: float = 0.0
    duplicated: float = 0.0
    failed: float = 0.0
    idle: float = 0.0
    under_way: float = 0.0

    @property
    def total(self) -> float:
        return self.useful + self.duplicated + self.failed + self.idle + self.under_way


@dataclass(frozen=True)
class Ledger:
    """Attempts in the order in which they started, and their sums."""

    attempts: Sequence[AttemptRecord] = field(default_factory=tuple)

    def of(self, stage: str) -> "Ledger":
        """The part of one stage."""
        return Ledger([attempt for attempt in self.attempts if attempt.stage == stage])

    @cached_property
    def hours(self) -> Spent:
        """Hours of processes."""
        return _sum((attempt, 1.0) for attempt in self.attempts)

    @cached_property
    def gpu_hours(self) -> Spent:
        """Hours of GPUs: of each attempt times the GPUs that it held."""
        return _sum((attempt, float(attempt.gpus)) for attempt in self.attempts)

    def check_budget(self, gpu_hours: float | None) -> None:
        """Raises UserError where at least `gpu_hours` were used; None is no limit."""
        if gpu_hours is not None and self.gpu_hours.total >= gpu_hours:
            raise UserError(
                f"the budget of {gpu_hours:g} GPU-hours is used up: {self.gpu_hours.total:.2f} GPU-hours were spent",
                mend="what is committed is safe; raise `budget_gpu_hours` in the config to go on",
            )


def _sum(weighted: Iterable[tuple[AttemptRecord, float]]) -> Spent:
    totals = dict.fromkeys(("useful", "duplicated", "failed", "idle", "under_way"), 0.0)
    for attempt, weight in weighted:
        parts = {
            "useful": attempt.useful,
            "duplicated": attempt.duplicated,
            "failed": attempt.failed + attempt.lost,
            "under_way": attempt.under_way,
        }
        parts["idle"] = max(attempt.seconds - sum(parts.values()), 0.0)
        for name, seconds in parts.items():
            totals[name] += weight * seconds / 3600
    return Spent(**totals)


def read_ledger(run: Run, bad: BadFiles | None = None) -> Ledger:
    """All attempts of all stages of a run. Files that are none are added to `bad`; without it they are an error, or
    are told by the attempt."""
    folders = [run.stage(stage["name"]).path for stage in run.config["stages"]]
    if bad is None:
        found = [attempt for folder in folders for attempt in read_attempts(folder)]
    else:
        found = [attempt for folder in folders for attempt in bad.read(partial(read_attempts, folder), [])]
        for error in (error for attempt in found for error in attempt.bad_files):
            bad.note(error)
    return Ledger(sorted(found, key=lambda attempt: (attempt.started, attempt.id)))


def read_attempts(stage_folder: Path) -> list[AttemptRecord]:
    """The attempts of one stage in the order in which they started: one small file of each is read, mostly. Raises
    BadFileError if `attempts` is no folder; a bad file of one attempt is told by its record."""
    place = below(stage_folder, 1) / "attempts"
    records = [_read(stage_folder.name, place, entry.name) for entry in place.entries() if entry.is_folder]
    return _name_killed(stage_folder, sorted(records, key=lambda attempt: (attempt.started, attempt.id)))


def _read(stage: str, attempts: Place, name: str) -> AttemptRecord:
    place, bad = attempts / name, BadFiles()
    ended = bad.read(lambda: _ended(place), None)
    if ended is not None:
        over = ended.get("started", _seconds_of(ended)) + ended.get("seconds", 0.0)
        return _record(stage, place.path, ended["cause"], ended, over)
    beat = bad.read(lambda: read_beat(place.path), None)
    if beat is not None:
        life = life_of_beat(beat)
        record = _record(stage, place.path, life, beat, time.time() if life == "running" else beat["time"])
    else:
        record = _without_heartbeat(stage, attempts, name, bad)
    return replace(record, bad_files=tuple(bad)) if bad else record


def _ended(place: Place) -> End | None:
    """How it ended; None if it did not say so, or a crash left the record empty."""
    try:
        text = place.read("ended.json")
    except FileNotFoundError:
        return None
    return parse(text, End, place.path / "ended.json") if text else None


def _without_heartbeat(stage: str, attempts: Place, name: str, bad: BadFiles) -> AttemptRecord:
    """An attempt that was lost before its first heartbeat: what is known of it are its first event, or just its age."""
    folder, found = attempts / name, attempts.stat(name)
    touched = found.st_mtime if found else 0.0
    first = bad.read(lambda: _first_event(folder), None)
    if first is None or "pid" not in first:
        return AttemptRecord(stage, name, folder.path, "silent", touched, touched)
    life = life_of_beat({"time": touched, "host": first.get("host", ""), "pid": first["pid"]})
    return _record(stage, folder.path, life, {**first, "started": first.get("started", touched)}, touched)


def _record(stage: str, folder: Path, cause: str, told: State | Beat, ended: float) -> AttemptRecord:
    spent = told.get("seconds_in", {})
    return AttemptRecord(
        stage=stage,
        id=folder.name,
        folder=folder,
        cause=cause,
        started=told.get("started", ended),
        ended=ended,
        useful=spent.get("useful", 0.0),
        duplicated=spent.get("duplicated", 0.0),
        failed=spent.get("failed", 0.0),
        num_shards=told.get("shards", 0),
        num_duplicates=told.get("duplicates", 0),
        num_failed=told.get("failed", 0),
        gpus=told.get("gpus", 0),
        host=told.get("host", ""),
        node=told.get("node", ""),
        job=told.get("job", ""),
        restart=int(told.get("restart", 0)),
        detail=str(told.get("detail", "")),
        shard=told.get("shard", ""),
        since=told.get("since", 0.0),
        beat=told,
    )


def _name_killed(stage_folder: Path, records: list[AttemptRecord]) -> list[AttemptRecord]:
    """Say of attempts that ended without a word what killed them. A silent one of which another source tells the end,
    or whose task was started again, is dead: a scheduler restarts a task when it has ended it."""
    if all(record.cause not in ("killed", "silent") for record in records):
        return records
    starts: dict[str, list[float]] = {}
    for record in records:
        starts.setdefault(record.job, []).append(record.started)
    ends, accounts = shell_ends(stage_folder), Accounting.read(stage_folder.parent)

    def named(record: AttemptRecord) -> AttemptRecord:
        if record.cause not in ("killed", "silent") or not record.job:
            return record
        following = min((start for start in starts[record.job] if start > record.started), default=None)
        life = accounts.life_of(record.job, record.started)
        end = ends.get((record.job, record.restart))
        why = why_killed(
            by_shell=end.why if end else "",
            by_log=last_words(stage_folder, record.job, record.started, following or float("inf")),
            by_accounts=life.why if life else "",
            came_back=following is not None,
        )
        # Its GPUs were held until then, also where its heart had stopped long before.
        over = end.moment if end else min(life.end or 0.0, time.time()) if life else 0.0
        return replace(record, cause="killed", detail=why, ended=max(record.ended, over)) if why else record

    return [named(record) for record in records]


def _first_event(folder: Place) -> State | None:
    """What an attempt said of itself when it started; None if it did not come so far, or a crash cut the line short."""
    try:
        line = folder.first_line("events.jsonl")
    except FileNotFoundError:
        return None
    return parse(line, State, folder.path / "events.jsonl", line=1) if line.endswith(b"\n") else None


def _seconds_of(ended: End) -> float:
    """The start of an attempt that recorded only when it ended."""
    try:
        return datetime.fromisoformat(ended["time"]).timestamp() - ended.get("seconds", 0.0)
    except (KeyError, ValueError, OverflowError):
        return 0.0


def when(moment: float) -> str:
    """A time in UTC, for people."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
