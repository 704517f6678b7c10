"""Why a shard or an attempt failed, in few classes; the record of it; and shards parked because they always fail.

An attempt records the failures of its shards in its own folder (`<attempt>/failed/<shard>.json`), so that no file has
two writers. A shard that failed three times for the same cause is parked: `<stage>/parked/<shard>.json`.
"""

import errno
import os
import re
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cxr_core.errors import UserError, explain_os_error
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.provenance import now

FORMAT = 1

PARK_AFTER = 3
"""Failures of one shard for one cause after which it is no longer tried."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_OF_THE_PLACE = {*_FULL, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE}
"""Refusals of the operating system that the next shard would meet too."""


class Stopped(Exception):  # noqa: N818
    """An end was asked for and a safe point was reached: what is done is committed, and nothing is half done."""


@dataclass(frozen=True)
class Failure:
    """One shard that failed in one attempt: `cause` is its class (see `cause_of`), `text` what was said.

    `is_parked` says that with it the shard was parked.
    """

    shard: str
    attempt: str
    cause: str
    text: str
    seconds: float
    time: str
    is_parked: bool = False
    format: int = FORMAT


def cause_of(error: BaseException) -> str:
    """The class of an error: refused, interrupted, stopped, out of memory, disk full, timeout, signal, or its type.

    A UserError that has a `cause` of its own, as where a rank was killed, is of that class.

    Equal classes are one cause when failures of a shard are counted.
    """
    if isinstance(error, UserError):
        return getattr(error, "cause", "refused")
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Stopped):
        return "stopped"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "disk full"
    # Torch says OutOfMemoryError for a GPU and RuntimeError for host memory, and is not imported for its names alone.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _is(error, _NO_MEMORY):
        return "out of memory"
    if isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutExpired":
        return "timeout"
    if type(error).__name__ == "BrokenProcessPool" or _is(error, _BY_SIGNAL):
        return "signal"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_BY_SIGNAL = re.compile(r"killed by signal|died with <Signals")


def _is(error: BaseException, words: re.Pattern[str]) -> bool:
    return words.search(str(error)) is not None


def is_of_the_place(error: Exception) -> bool:
    """Whether the machine or its disk failed, and not the shard: others would meet the same."""
    return isinstance(error, OSError) and error.errno in _OF_THE_PLACE


def spoils_the_process(error: Exception) -> bool:
    """Whether nothing more can be computed in this process: after such an error CUDA refuses every later call."""
    return "CUDA error" in str(error)


def text_of(error: BaseException) -> str:
    """What is said of an error: a mistake of the user's in its own words, anything else with its type."""
    if isinstance(error, UserError):
        return str(error)
    explained = explain_os_error(error) if isinstance(error, OSError) else None
    return explained or "".join(traceback.format_exception_only(error)).strip()


def record_failure(attempt_folder: Path, failure: Failure, error: Exception) -> None:
    """Write `failed/<shard>.json` into the attempt's folder and, beside it, the traceback of what was no refusal."""
    folder = attempt_folder / "failed"
    folder.mkdir(exist_ok=True)
    if not isinstance(error, UserError):
        (folder / f"{failure.shard}.txt").write_text("".join(traceback.format_exception(error)))
    write_json(folder / f"{failure.shard}.json", asdict(failure))


def forget_failure(attempt_folder: Path, shard: str) -> None:
    """Take back a record: it was the whole stage that failed, which must not count against the shard."""
    for ending in ("json", "txt"):
        (attempt_folder / "failed" / f"{shard}.{ending}").unlink(missing_ok=True)


def failures_of(stage_folder: Path, shard: str) -> list[Failure]:
    """Every recorded failure of a shard, the oldest first."""
    paths = (stage_folder / "attempts").glob(f"*/failed/{shard}.json")
    return sorted((Failure(**read_json(path)) for path in paths), key=lambda failure: failure.time)


def park_if_hopeless(stage_folder: Path, shard: str, kills: Sequence[Failure] = ()) -> str | None:
    """Park a shard that failed three times for the same cause since it was last released. Returns that cause.

    `kills` are attempts that were killed in the middle of it, and probably because of it (see `kills`).
    """
    forgiven = set(_released(stage_folder, shard))
    counted = [each for each in (*failures_of(stage_folder, shard), *kills) if each.attempt not in forgiven]
    cause, num = Counter(failure.cause for failure in counted).most_common(1)[0] if counted else ("", 0)
    if num < PARK_AFTER:
        return None
    attempts = [failure.attempt for failure in counted if failure.cause == cause]
    record = {"format": FORMAT, "shard": shard, "cause": cause, "attempts": attempts, "time": now()}
    path = stage_folder / "parked" / f"{shard}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, record | {"text": counted[-1].text})
    return cause


def parked(stage_folder: Path) -> set[str]:
    """Ids of the parked shards: one listing, no file is opened."""
    try:
        with os.scandir(stage_folder / "parked") as entries:
            return {entry.name[:-5] for entry in entries if entry.name.endswith(".json") and entry.name[0] != "."}
    except FileNotFoundError:
        return set()


def release(stage_folder: Path, shards: Sequence[str] | None = None) -> list[str]:
    """Let parked shards (all of them by default) be tried again, three times anew. Returns their ids."""
    chosen = sorted(parked(stage_folder) & set(shards) if shards is not None else parked(stage_folder))
    for shard in chosen:
        counted = read_json(stage_folder / "parked" / f"{shard}.json").get("attempts", [])
        attempts = sorted({*counted, *(failure.attempt for failure in failures_of(stage_folder, shard))})
        record = stage_folder / "parked" / "released" / f"{shard}.json"
        record.parent.mkdir(exist_ok=True)
        write_json(record, {"format": FORMAT, "shard": shard, "attempts": attempts, "time": now()})
        (stage_folder / "parked" / f"{shard}.json").unlink()
    return chosen


def _released(stage_folder: Path, shard: str) -> list[str]:
    path = stage_folder / "parked" / "released" / f"{shard}.json"
    return list(read_json(path)["attempts"]) if path.exists() else []


class ShardsFailedError(UserError):
    """Shards failed, the first of them of a mistake of the user's, which is told; what else was asked for is done."""

    def __init__(self, failures: Sequence[Failure], first: UserError) -> None:
        self.failures = tuple(failures)
        mend = "\n  -> ".join([*filter(None, [first.mend]), *_summary(failures)])
        super().__init__(first.what, where=first.where, mend=mend)


def told(failures: Sequence[Failure], first: Exception) -> Exception:
    """The error with which a pack ends whose shards failed: the first one, with the names of all."""
    if isinstance(first, UserError):
        return ShardsFailedError(failures, first)
    first.add_note("\n".join(_summary(failures)))
    return first


def _summary(failures: Sequence[Failure]) -> list[str]:
    failed, hopeless = [f.shard for f in failures], [f.shard for f in failures if f.is_parked]
    lines = [f"failed: {_listed(failed)}; the other shards are safe. Run again: only what is missing will be made"]
    if hopeless:
        words = f"parked after {PARK_AFTER} failures for the same cause: {_listed(hopeless)}"
        lines.append(f"{words}; they are tried again with --retry-parked")
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
