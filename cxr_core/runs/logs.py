"""What happened: the events, tracebacks and scheduler logs of the attempts that worked on a stage or a shard."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from cxr_core.runs.last_words import scheduler_logs
from cxr_core.runs.ledger import AttemptRecord, read_attempts, when

_TAIL = 40
"""Last lines of a scheduler's log that are shown."""


def stage_log(stage_folder: Path, shard: str | None = None) -> Iterator[str]:
    """Lines about each attempt of a stage, in the order in which they started; only about those that worked on `shard`
    where it is given. Its events, the traceback of what failed, and the end of the scheduler's log of its job."""
    for attempt in read_attempts(stage_folder):
        events = [event for event in _events(attempt.folder) if shard in (None, event.get("shard"))]
        if shard is not None and not events:
            continue
        yield _head(attempt)
        yield from (f"  {_line(event)}" for event in events)
        yield from _indented(attempt.folder / "traceback.txt" if shard is None else None)
        for path in sorted((attempt.folder / "failed").glob(f"{shard or '*'}.txt")):
            yield from _indented(path)
        yield from _scheduler_log(stage_folder, attempt)


def _head(attempt: AttemptRecord) -> str:
    where = attempt.node or attempt.host or "unknown host"
    job = f", job {attempt.job}" if attempt.job else ""
    at = f" in shard {attempt.shard}" if attempt.shard else ""
    why = f": {attempt.why}" if attempt.why else ""
    return f"attempt {attempt.id} on {where}{job}, started {when(attempt.started)} UTC: {attempt.cause}{at}{why}"


def _line(event: dict[str, Any]) -> str:
    """An event as a line: time of day, what, and its values but for long ones that are told elsewhere."""
    try:
        moment = datetime.fromisoformat(str(event["time"])).strftime("%H:%M:%S")
    except (KeyError, ValueError):
        moment = "--:--:--"
    hidden = ("time", "what", "digest", "code", "started", "pid", "visible")
    values = " ".join(
        f"{name}={value}" for name, value in event.items() if name not in hidden and value not in ("", None)
    )
    return f"{moment} {event.get('what', '')} {values}".rstrip()


def _events(folder: Path) -> list[dict[str, Any]]:
    """The events of an attempt; a last line that a crash cut short is left out."""
    path = folder / "events.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _indented(path: Path | None) -> Iterator[str]:
    if path is not None and path.exists():
        yield f"  {path}:"
        yield from (f"    {line}" for line in path.read_text().splitlines())


def _scheduler_log(stage_folder: Path, attempt: AttemptRecord) -> Iterator[str]:
    """The last lines of `submits/*/<job>.out`, where the attempt ran as a job."""
    for path in scheduler_logs(stage_folder, attempt.job) if attempt.job else ():
        lines = path.read_text(errors="replace").splitlines()
        yield f"  {path}:" + (f" (last {_TAIL} of {len(lines)} lines)" if len(lines) > _TAIL else "")
        yield from (f"    {line}" for line in lines[-_TAIL:])
