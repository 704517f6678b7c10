"""Records of shards that failed, and of those that are parked because they always fail.

An attempt records the failures of its shards in its own folder (`<attempt>/failed/<shard>.json`), so that no file has
two writers. A shard that failed three times for the same cause is parked: `<stage>/parked/<shard>.json`.
"""

import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from typing_extensions import TypedDict

from cxr_core.errors import UserError, explain_os_error
from cxr_core.runs.door import STRICT, BadFileError, BadFiles, Name, Place, below
from cxr_core.runs.files import json_text
from cxr_core.runs.provenance import now
from cxr_core.runs.records import Seconds

FORMAT = 1

PARK_AFTER = 3
"""Failures of one shard for one cause after which it is no longer tried."""


@dataclass(frozen=True)
class Failure:
    """One shard that failed in one attempt: `cause` is its class (see `causes.cause_of`), `text` what was said.

    `is_parked` says that with it the shard was parked.
    """

    __pydantic_config__ = STRICT

    shard: Name
    attempt: Name
    cause: str
    text: str
    seconds: Seconds
    time: str
    is_parked: bool = False
    format: int = FORMAT


def text_of(error: BaseException) -> str:
    """What is said of an error: a mistake of the user's in its own words, anything else with its type."""
    if isinstance(error, UserError):
        return str(error)
    explained = explain_os_error(error) if isinstance(error, OSError) else None
    return explained or "".join(traceback.format_exception_only(error)).strip()


def record_failure(attempt_folder: Path, failure: Failure, error: Exception) -> None:
    """Write `failed/<shard>.json` into the attempt's folder and, beside it, the traceback of what was no refusal."""
    folder = (below(attempt_folder, 3) / "failed").make()
    if not isinstance(error, UserError):
        folder.write(f"{failure.shard}.txt", "".join(traceback.format_exception(error)), durable=False)
    folder.write(f"{failure.shard}.json", json_text(asdict(failure)))


def forget_failure(attempt_folder: Path, shard: str) -> None:
    """Take back a record: it was the whole stage that failed, which must not count against the shard."""
    for ending in ("json", "txt"):
        (below(attempt_folder, 3) / "failed").remove(f"{shard}.{ending}")


def failures_of(stage_folder: Path, shard: str) -> list[Failure]:
    """Every recorded failure of a shard, the oldest first. A record that is damaged counts for nothing."""
    attempts, bad = below(stage_folder, 1) / "attempts", BadFiles()
    folders = [attempts / entry.name / "failed" for entry in attempts.entries() if entry.is_folder]
    found = [bad.read(partial(_failure, folder, shard), None) for folder in folders]
    return sorted(filter(None, found), key=lambda failure: failure.time)


def _failure(folder: Place, shard: str) -> Failure | None:
    try:
        return folder.json(f"{shard}.json", Failure)
    except FileNotFoundError:
        return None


def failures_in(attempt_folder: Path) -> Iterator[Failure]:
    """Every failure that one attempt recorded and that can be read."""
    folder, bad = below(attempt_folder, 3) / "failed", BadFiles()
    for entry in bad.read(folder.entries, []):
        failure = bad.read(partial(folder.json, entry.name, Failure), None) if _is_record(entry.name) else None
        if failure is not None:
            yield failure


def failed_shards(attempt_folder: Path) -> list[str]:
    """Ids of the shards of which an attempt recorded a failure: one listing, no file is opened."""
    return [entry.name[:-5] for entry in (below(attempt_folder, 3) / "failed").entries() if _is_record(entry.name)]


def _is_record(name: str) -> bool:
    return name.endswith(".json") and name[0] != "."


@dataclass(frozen=True)
class Parking:
    """That a shard is no longer tried: it failed of `cause` in each of `attempts`, at last in the words `text`."""

    shard: str
    cause: str
    attempts: Sequence[str]
    text: str

    def write(self, stage_folder: Path) -> None:
        folder = (below(stage_folder, 1) / "parked").make()
        folder.write(f"{self.shard}.json", json_text({"format": FORMAT, **asdict(self), "time": now()}))


def parking_of(failures: Sequence[Failure], forgiven: Collection[str] = ()) -> Parking | None:
    """Whether a shard that failed so is to be parked: three times for one cause, without attempts that are `forgiven`
    since it was last released."""
    counted = [failure for failure in failures if failure.attempt not in forgiven]
    cause, num = Counter(failure.cause for failure in counted).most_common(1)[0] if counted else ("", 0)
    if num < PARK_AFTER:
        return None
    attempts = [failure.attempt for failure in counted if failure.cause == cause]
    return Parking(counted[-1].shard, cause, attempts, counted[-1].text)


def park_if_hopeless(stage_folder: Path, shard: str) -> str:
    """Park a shard that failed three times for the same cause since its last release. Returns the cause, or ""."""
    parking = parking_of(failures_of(stage_folder, shard), forgiven(stage_folder, shard))
    if parking is None:
        return ""
    parking.write(stage_folder)
    return parking.cause


class Parked(TypedDict, total=False):
    """A record in `parked/` or `parked/released/`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    shard: Name
    cause: str
    attempts: list[Name]
    time: str
    text: str


def parked(stage_folder: Path) -> set[str]:
    """Ids of the parked shards: one listing, no file is opened."""
    folder = below(stage_folder, 1) / "parked"
    return {entry.name[:-5] for entry in folder.entries() if _is_record(entry.name)}


def release(stage_folder: Path, shards: Sequence[str] | None = None) -> list[str]:
    """Let parked shards (all of them by default) be tried again, three times anew. Returns their ids."""
    chosen = sorted(parked(stage_folder) & set(shards) if shards is not None else parked(stage_folder))
    folder, bad = below(stage_folder, 1) / "parked", BadFiles()
    for shard in chosen:
        counted = bad.read(partial(folder.json, f"{shard}.json", Parked), {}).get("attempts", [])
        attempts = sorted({*counted, *(failure.attempt for failure in failures_of(stage_folder, shard))})
        record = {"format": FORMAT, "shard": shard, "attempts": attempts, "time": now()}
        (folder / "released").make().write(f"{shard}.json", json_text(record))
        folder.remove(f"{shard}.json")
    return chosen


def forgiven(stage_folder: Path, shard: str) -> list[str]:
    """The attempts whose failures do not count any more, since the shard was released after them."""
    try:
        found = (below(stage_folder, 1) / "parked" / "released").json(f"{shard}.json", Parked)
    except (FileNotFoundError, BadFileError):
        return []
    return found.get("attempts", [])


class ShardsFailedError(UserError):
    """Shards failed, the first of them of a mistake of the user's, which it names; what else was asked for is done."""

    def __init__(self, failures: Sequence[Failure], first: UserError) -> None:
        self.failures = tuple(failures)
        hint = "\n  -> ".join([*filter(None, [first.hint]), *_summary(failures)])
        super().__init__(first.what, where=first.where, hint=hint)


def named_failure(failures: Sequence[Failure], first: Exception) -> Exception:
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
