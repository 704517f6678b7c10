"""How far a run is: counted from the names of receipts and from what attempts say of themselves. Opens no receipt."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cxr_core.runs.door import BadFileError, BadFiles
from cxr_core.runs.failures import failed_shards, parked
from cxr_core.runs.ledger import AttemptRecord, Ledger, read_attempts
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.unstarted import Unstarted, unstarted

_SLOW = 3.0
"""An attempt is slow where it has been in its shard for more than so many times what a shard takes."""


@dataclass(frozen=True)
class StageStatus:
    """One stage. `planned` is None before its plan is frozen; the counts are of shards and add up to it.

    `running` are in the hands of live or silent attempts, `lost` were in the hands of attempts that ended,
    `failed` failed in their last attempt and will be tried again, `parked` will not. `rate` is shards an hour of the
    attempts that live; `seconds_left` is what training says itself. `unstarted` are tasks that ended
    before they had an attempt.
    """

    name: str
    kind: str
    planned: int | None
    done: int
    is_finished: bool
    running: frozenset[str]
    failed: frozenset[str]
    lost: frozenset[str]
    parked: frozenset[str]
    attempts: Sequence[AttemptRecord]
    doing: str
    rate: float | None
    unstarted: Sequence[Unstarted]
    seconds_left: float | None = None
    bad_files: Sequence[BadFileError] = ()
    """Records that are not what they must be; what they would tell is missing here."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.attempts)

    @property
    def pending(self) -> int:
        """Shards that nothing has happened to yet."""
        touched = len(self.running) + len(self.failed) + len(self.lost) + len(self.parked)
        return max((self.planned or 0) - self.done - touched, 0)

    @property
    def eta(self) -> float | None:
        """Seconds until all is done: as the work says itself, else at the rate of shards."""
        if self.seconds_left is not None:
            return self.seconds_left
        left = (self.planned or 0) - self.done - len(self.parked)
        return 3600 * left / self.rate if self.rate and left > 0 else None

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.planned is None:
            return "not planned yet"
        if self.is_finished:
            return "done"
        if any(attempt.outcome == "running" for attempt in self.attempts):
            return "running"
        if self.done >= self.planned:
            return "to be finished"
        if any(attempt.outcome == "silent" for attempt in self.attempts):
            return "silent"
        return "stopped" if self.attempts else "to do"

    @property
    def silent(self) -> list[AttemptRecord]:
        """Attempts whose heart is not heard though nothing says that they are dead."""
        return [attempt for attempt in self.attempts if attempt.outcome == "silent" and not self.is_finished]

    @property
    def cut_short(self) -> list[AttemptRecord]:
        """Attempts that ended in the middle of a shard that nobody has made since, where it is known why."""
        return [attempt for attempt in self.attempts if attempt.cause and attempt.shard in self.lost]

    @property
    def slow(self) -> list[AttemptRecord]:
        """Attempts that have been in their shard for far longer than shards take, the slowest first."""
        usual = _usual_seconds(self.attempts)
        found = [a for a in self.attempts if a.outcome == "running" and usual and a.under_way > _SLOW * usual]
        return sorted(found, key=lambda attempt: -attempt.under_way)


def _usual_seconds(attempts: Sequence[AttemptRecord]) -> float | None:
    """The median over attempts of the seconds that a committed shard took."""
    each = [a.useful / num for a in attempts if a.useful and (num := a.num_shards - a.num_duplicates) > 0]
    return statistics.median(each) if each else None


def run_status(run: Run) -> list[StageStatus]:
    """The status of every stage, in the order of the config. Takes no lock."""
    return [stage_status(run.stage(stage["name"]), stage["kind"]) for stage in run.config["stages"]]


def stage_status(folder: StageFolder, kind: str) -> StageStatus:
    """The status of one stage, from what can be read."""
    bad = BadFiles()
    planned, done = bad.read(folder.num_planned, None), bad.read(folder.done, set())
    attempts = bad.read(lambda: read_attempts(folder.path), [])
    for error in (error for attempt in attempts for error in attempt.bad_files):
        bad.note(error)
    running = frozenset(a.shard for a in attempts if a.shard and not a.is_over) - done
    hopeless = frozenset(bad.read(lambda: parked(folder.path), set()) - done)
    lost = frozenset(a.shard for a in attempts if a.shard and a.is_over) - done - running - hopeless
    failed = _failed(attempts, bad) - done - running - hopeless - lost
    live = [attempt for attempt in attempts if attempt.outcome == "running"]
    return StageStatus(
        name=folder.name,
        kind=kind,
        planned=planned,
        done=len(done),
        is_finished=bad.read(lambda: folder.is_finished, False),
        running=running,
        failed=failed,
        lost=lost,
        parked=hopeless,
        attempts=attempts,
        doing=_doing(live),
        rate=_rate(live),
        unstarted=bad.read(lambda: unstarted(folder, attempts), []),
        seconds_left=_seconds_left(live),
        bad_files=tuple(bad),
    )


def _failed(attempts: Sequence[AttemptRecord], bad: BadFiles) -> frozenset[str]:
    """Shards of which a failure is recorded; only attempts that counted one are looked at."""
    folders = [attempt.folder for attempt in attempts if attempt.num_failed]
    return frozenset(shard for folder in folders for shard in bad.read(partial(failed_shards, folder), []))


def _rate(live: Sequence[AttemptRecord]) -> float | None:
    """Shards an hour of all live attempts together; None while none of them has made one."""
    each = [(a.num_shards - a.num_duplicates) / a.seconds for a in live if a.seconds > 0]
    return 3600 * sum(each) or None


def _doing(live: Sequence[AttemptRecord]) -> str:
    """What the attempt that was started last is at, in its own words."""
    if not live:
        return ""
    beat: dict[str, Any] = dict(live[-1].beat)
    progress = f"{beat['doing']} {beat.get('done', 0)}/{beat.get('total', '?')}" if "doing" in beat else ""
    more = f" and {len(live) - 1} more" if len(live) > 1 else ""
    progress = ", ".join([progress, *_figures(beat)])
    return f"{progress} (attempt on {live[-1].place}{more})".strip()


def _figures(beat: Mapping[str, Any]) -> Iterator[str]:
    """What training says of itself."""
    if "step" in beat:
        yield f"step {beat['step']:,}"
    if beat.get("loss") is not None:
        yield f"loss {beat['loss']:.4g}"
    if beat.get("images_per_second") is not None:
        yield f"{beat['images_per_second']:.3g} images/s"
    if beat.get("gpu_gib") is not None:
        yield f"at most {beat['gpu_gib']:.1f} GiB of the GPU"
    if "ranks" in beat:
        yield str(beat["ranks"])


def _seconds_left(live: Sequence[AttemptRecord]) -> float | None:
    if not live or live[-1].beat.get("seconds_left") is None:
        return None
    beat = live[-1].beat
    return max(beat["seconds_left"] - (time.time() - beat["time"]), 0.0)
