"""The ledger: every attempt of a run, how it ended, and what its time was good for. No receipt is opened for it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from cxr_core.errors import UserError
from cxr_core.runs.accounting import Accounting
from cxr_core.runs.attempt import AttemptState, End, Heartbeat, liveness_by, read_beat
from cxr_core.runs.causes import Outcome
from cxr_core.runs.door import BadFileError, BadFiles, Place, below, parse
from cxr_core.runs.evidence import cause_in_log, shell_ends
from cxr_core.runs.outcome import Evidence, outcome_of
from cxr_core.runs.run import Run


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt as its folder tells it. Times are seconds since 1970 in UTC, durations seconds.

    `outcome` is "running" while it has none; `cause` names a row of the table of causes, where one is known, and
    `detail` is what the attempt said of its end itself. Of one that did not, `ended` is its last sign of life, or when
    it was killed. `shard` is what it works on, or was working on when it was cut short, since `since`. `beat` is all
    that it said of itself last.
    """

    stage: str
    id: str
    folder: Path
    outcome: Outcome | Literal["running"]
    started: float
    ended: float
    cause: str = ""
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
    def is_over(self) -> bool:
        """Whether it certainly does nothing any more."""
        return self.outcome not in ("running", "silent")

    @property
    def under_way(self) -> float:
        """Seconds in the shard at hand, of which is not known yet what they were good for."""
        return max(self.ended - self.since, 0.0) if self.shard and not self.is_over else 0.0

    @property
    def seconds_cut_short(self) -> float:
        """Seconds in the shard in whose middle it ended."""
        return max(self.ended - self.since, 0.0) if self.shard and self.is_over else 0.0

    @property
    def place(self) -> str:
        """The node or machine on which it ran, as far as it is known."""
        return self.node or self.host

    @property
    def in_words(self) -> str:
        """For people: its outcome, the shard in whose middle it ended, and the cause where that tells more."""
        at = f" in shard {self.shard}" if self.shard else ""
        is_plain = self.outcome in ("done", "running") or self.cause in ("", self.outcome)
        return f"{self.outcome}{at}" + ("" if is_plain else f": {self.cause}")


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
                hint="what is committed is safe; raise `budget_gpu_hours` in the config to go on",
            )


def _sum(weighted: Iterable[tuple[AttemptRecord, float]]) -> Spent:
    totals = dict.fromkeys(("useful", "duplicated", "failed", "idle", "under_way"), 0.0)
    for attempt, weight in weighted:
        parts = {
            "useful": attempt.useful,
            "duplicated": attempt.duplicated,
            "failed": attempt.failed + attempt.seconds_cut_short,
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
    return _with_causes(stage_folder, sorted(records, key=lambda attempt: (attempt.started, attempt.id)))


def _read(stage: str, attempts: Place, name: str) -> AttemptRecord:
    """What its own folder tells; why it is gone, others know."""
    place, bad = attempts / name, BadFiles()
    ended = bad.read(lambda: _ended(place), None)
    if ended is not None:
        over = ended.get("started", _start_of(ended)) + ended.get("seconds", 0.0)
        return _record(stage, place.path, Evidence("ended", ended["cause"]), ended, over)
    beat = bad.read(lambda: read_beat(place.path), None)
    if beat is not None:
        alive = liveness_by(beat)
        over = time.time() if alive == "running" else beat["time"]
        record = _record(stage, place.path, Evidence(alive), beat, over)
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
    alive = liveness_by({"time": touched, "host": first.get("host", ""), "pid": first["pid"]})
    return _record(stage, folder.path, Evidence(alive), {**first, "started": first.get("started", touched)}, touched)


def _record(
    stage: str, folder: Path, evidence: Evidence, facts: AttemptState | Heartbeat | End, ended: float
) -> AttemptRecord:
    spent = facts.get("seconds_in", {})
    outcome, cause = outcome_of(evidence)
    return AttemptRecord(
        stage=stage,
        id=folder.name,
        folder=folder,
        outcome=outcome,
        started=facts.get("started", ended),
        ended=ended,
        cause=cause,
        useful=spent.get("useful", 0.0),
        duplicated=spent.get("duplicated", 0.0),
        failed=spent.get("failed", 0.0),
        num_shards=facts.get("shards", 0),
        num_duplicates=facts.get("duplicates", 0),
        num_failed=facts.get("failed", 0),
        gpus=facts.get("gpus", 0),
        host=facts.get("host", ""),
        node=facts.get("node", ""),
        job=facts.get("job", ""),
        restart=int(facts.get("restart", 0)),
        detail=str(facts.get("detail", "")),
        shard=facts.get("shard", ""),
        since=facts.get("since", 0.0),
        beat=facts,
    )


def _with_causes(stage_folder: Path, records: list[AttemptRecord]) -> list[AttemptRecord]:
    """The outcomes of attempts that ended without a word, by what others recorded of them."""
    if not any(map(_is_unexplained, records)):
        return records
    starts: dict[str, list[float]] = {}
    for record in records:
        starts.setdefault(record.job, []).append(record.started)
    ends, accounts = shell_ends(stage_folder), Accounting.read(stage_folder.parent)

    def explained(record: AttemptRecord) -> AttemptRecord:
        following = min((start for start in starts[record.job] if start > record.started), default=None)
        end, account = ends.get((record.job, record.restart)), accounts.of(record.job, record.started)
        evidence = Evidence(
            "gone" if record.outcome == "killed" else "silent",
            by_shell=end.cause if end else "",
            by_log=cause_in_log(stage_folder, record.job, record.started, following or float("inf")),
            by_accounts=account.cause if account else "",
            came_back=following is not None,
        )
        outcome, cause = outcome_of(evidence)
        # Its GPUs were held until then, also where its heart had stopped long before.
        over = end.moment if end else min(account.end or 0.0, time.time()) if account else 0.0
        return replace(record, outcome=outcome, cause=cause, ended=max(record.ended, over)) if cause else record

    return [explained(record) if _is_unexplained(record) else record for record in records]


def _is_unexplained(record: AttemptRecord) -> bool:
    return bool(record.job) and record.outcome in ("killed", "silent")


def _first_event(folder: Place) -> AttemptState | None:
    """What an attempt said of itself when it started; None if it did not come so far, or a crash cut the line short."""
    try:
        line = folder.first_line("events.jsonl")
    except FileNotFoundError:
        return None
    return parse(line, AttemptState, folder.path / "events.jsonl", line=1) if line.endswith(b"\n") else None


def _start_of(ended: End) -> float:
    """The start of an attempt that recorded only when it ended."""
    try:
        return datetime.fromisoformat(ended["time"]).timestamp() - ended.get("seconds", 0.0)
    except (KeyError, ValueError, OverflowError):
        return 0.0


def when(moment: float) -> str:
    """A time in UTC, for people."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
