"""What happened: events, log records, tracebacks and scheduler logs of the attempts at a stage or a shard."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from cxr_core.runs.attempt import LOG
from cxr_core.runs.door import MIB, BadFileError, BadFiles, Place, below, parse
from cxr_core.runs.evidence import scheduler_logs, shell_ends, text_of_log
from cxr_core.runs.ledger import AttemptRecord, read_attempts, when
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from cxr_core.runs.unstarted import grouped, in_words, shards_of, unstarted

_TAIL = 40
"""Last lines of a scheduler's log that are shown."""


def stage_log(stage_folder: Path, shard: str | None = None, *, level: int = logging.INFO) -> Iterator[str]:
    """Lines about each attempt of a stage, in the order in which they started; only about those that worked on `shard`
    where it is given. Its events and its log records from `level` on by time, the traceback of what failed, and the end
    of the scheduler's log of its job.

    Below them, tasks that ended before they had an attempt, those alike together, with the end of one log. A file that
    cannot be read is named in its place."""
    bad = BadFiles()
    attempts = bad.read(lambda: read_attempts(stage_folder), [])
    for attempt in attempts:
        yield from _attempt(stage_folder, attempt, shard, level)
    yield from _without_attempt(StageFolder(stage_folder), attempts, shard, bad)
    yield from map(_bad, bad)


def _attempt(stage_folder: Path, attempt: AttemptRecord, shard: str | None, level: int) -> Iterator[str]:
    place, bad = below(attempt.folder, 3), BadFiles()
    for error in attempt.bad_files:
        bad.note(error)
    events = [event for event in _events(place, bad) if shard in (None, event.get("shard"))]
    if shard is not None and not events:
        return
    yield _head(attempt)
    records = [each for each in _records(place, bad, level) if shard in (None, each.get("shard"))]
    # Both are in UTC and in order; where they say the same time, the event comes first.
    for each in sorted([*events, *records], key=lambda each: str(each.get("time", ""))):
        yield f"  {_line(each)}"
    if shard is None:
        yield from _indented(place, "traceback.txt", bad)
    for entry in bad.read((place / "failed").entries, []):
        if entry.name.endswith(".txt") and shard in (None, entry.name[:-4]):
            yield from _indented(place / "failed", entry.name, bad)
    yield from (f"  {_bad(error)}" for error in bad)
    for path in scheduler_logs(stage_folder, attempt.job) if attempt.job else ():
        yield from _tail(path)


def _bad(error: BadFileError) -> str:
    return f"{error.where}: {error.what}"


def _without_attempt(
    folder: StageFolder, attempts: Sequence[AttemptRecord], shard: str | None, bad: BadFiles
) -> Iterator[str]:
    plan = bad.read(folder.plan, None)
    ended = bad.read(lambda: unstarted(folder, attempts), [])
    wanted = [task for task in ended if shard is None or shard in shards_of(task.task, task.submit, plan)]
    for group in grouped(wanted):
        yield in_words(group)
        yield from _tail(group[0].log)
    if shard is not None:
        return
    known = {task.log for task in ended}
    for path in bad.read(lambda: list(_silent_logs(folder, attempts, known)), []):
        yield f"task {path.stem} left no attempt and no word of how it ended"
        yield from _tail(path)


def _silent_logs(folder: StageFolder, attempts: Sequence[AttemptRecord], known: Collection[Path]) -> Iterator[Path]:
    """Logs of tasks that were to make shards and of which nothing else is there: they may just have begun."""
    begun, ends = {attempt.job for attempt in attempts}, {task for task, _ in shell_ends(folder.path)}
    for submit in submit_folders(folder.path):
        names = [entry.name for entry in below(submit, 3).entries() if entry.name.endswith(".out")]
        for path in (submit / name for name in names if Submit.read(submit).computes):
            if path not in known and path.stem not in begun | ends and not path.stem.startswith("local"):
                yield path


def _head(attempt: AttemptRecord) -> str:
    job = f", job {attempt.job}" if attempt.job else ""
    started = f"started {when(attempt.started)} UTC"
    return f"attempt {attempt.id} on {attempt.place or 'unknown host'}{job}, {started}: {attempt.in_words}"


def _line(event: dict[str, Any]) -> str:
    """An event as a line: time of day, what, and its values but for long ones that are told elsewhere."""
    try:
        moment = datetime.fromisoformat(str(event["time"])).strftime("%H:%M:%S")
    except (KeyError, ValueError):
        moment = "--:--:--"
    if "what" not in event and "message" in event:
        return f"{moment} {event.get('level', '')} {event.get('logger', '')}: {event['message']}"
    hidden = ("time", "what", "digest", "code", "started", "pid", "visible")
    values = " ".join(
        f"{name}={value}" for name, value in event.items() if name not in hidden and value not in ("", None)
    )
    return f"{moment} {event.get('what', '')} {values}".rstrip()


def _events(place: Place, bad: BadFiles) -> list[dict[str, Any]]:
    """The events of an attempt; a last line that a crash cut short is left out."""
    path = place.path / "events.jsonl"
    text = bad.read(lambda: place.read(path.name) if place.has(path.name) else b"", b"")
    *lines, _ = text.split(b"\n")
    found = [bad.read(partial(parse, line, dict[str, Any], path, line=i), None) for i, line in enumerate(lines, 1)]
    return [event for event in found if event is not None]


def _records(place: Place, bad: BadFiles, level: int) -> Iterator[dict[str, Any]]:
    """Log records of at least this level, of the end of the log; what is no record is passed over."""
    text = bad.read(lambda: place.tail(LOG, limit=MIB) if place.has(LOG) else "", "")
    for line in text.split("\n"):
        with suppress(BadFileError):  # a line that was cut, at the end by a crash or at the beginning by the limit
            record = parse(line.encode(), dict[str, Any], place.path / LOG)
            if _level_of(record) >= level:
                yield record


def _level_of(record: dict[str, Any]) -> int:
    return logging.getLevelNamesMapping().get(str(record.get("level")), logging.INFO)


def _indented(place: Place, name: str, bad: BadFiles) -> Iterator[str]:
    if place.has(name):
        yield f"  {place.path / name}:"
        yield from (f"    {line}" for line in bad.read(lambda: place.tail(name, limit=MIB), "").splitlines())


def _tail(path: Path) -> Iterator[str]:
    """The last lines of a scheduler's log; nothing where there is none."""
    if below(path.parent, 3).is_file(path.name):
        lines = text_of_log(path).splitlines()
        yield f"  {path}:" + (f" (last {_TAIL} of {len(lines)} lines)" if len(lines) > _TAIL else "")
        yield from (f"    {line}" for line in lines[-_TAIL:])
