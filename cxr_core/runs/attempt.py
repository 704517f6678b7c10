"""One attempt: a process that works on shards, what happened in it, and a heartbeat while it lives.

No file here ever has two writers: everything an attempt writes lies in its own folder.
"""

import json
import os
import socket
import time
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cxr_core.errors import UserError
from cxr_core.runs.files import remove, write_json
from cxr_core.runs.progress import heartbeat
from cxr_core.runs.provenance import code, now

BEAT_EVERY = 1.0
"""Least seconds between two writes of the heartbeat."""

SILENT_AFTER = 120.0
"""Seconds without a heartbeat after which an attempt that did not say how it ended counts as dead."""


def new_attempt_id(environ: dict[str, str] | None = None) -> str:
    """`<job>-<restart>-<random>`: unique over jobs, requeues and twins. Outside a scheduler the job is `pid<n>`."""
    environ = dict(os.environ) if environ is None else environ
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID")
    task = environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else job or f"pid{os.getpid()}"
    return f"{name}-{environ.get('SLURM_RESTART_COUNT', '0')}-{os.urandom(3).hex()}"


class Stopped(Exception):  # noqa: N818
    """An end was asked for and a safe point was reached: what is done is committed, and nothing is half done."""


class Attempt(AbstractContextManager["Attempt"]):
    """The attempt's folder `<stage>/attempts/<id>/`: events.jsonl, heartbeat.json, ended.json and a work folder."""

    def __init__(self, stage_folder: Path, attempt_id: str | None = None) -> None:
        self.id = attempt_id or new_attempt_id()
        self.folder = stage_folder / "attempts" / self.id
        self.counters: dict[str, Any] = {"shards": 0, "items": 0, "problems": 0}
        self._last_beat = 0.0
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        machine = {"host": socket.gethostname(), "pid": os.getpid(), "cpus": len(os.sched_getaffinity(0))}
        self.event("started", **machine, code=code())
        self._token = heartbeat.set(self.beat)
        self.beat({}, force=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        heartbeat.reset(self._token)
        remove(self.work)
        cause = "finished" if error is None else _cause(error)
        if error is not None and not isinstance(error, UserError | KeyboardInterrupt | Stopped):
            (self.folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
        self.event("ended", cause=cause, detail=str(error or ""))
        write_json(
            self.folder / "ended.json",
            {"cause": cause, "detail": str(error or ""), "time": now(), "seconds": self.seconds, **self.counters},
        )

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    @property
    def work(self) -> Path:
        """Where shards are made before they are committed; in the run's file system, so that a rename suffices."""
        return self.folder / "work"

    def event(self, what: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": now(), "what": what, **fields}, ensure_ascii=False) + "\n")

    def beat(self, values: dict[str, Any], *, force: bool = False) -> None:
        """Say that the attempt lives and how far it is; at most once a second unless forced."""
        moment = time.monotonic()
        if force or moment - self._last_beat >= BEAT_EVERY:
            self._last_beat = moment
            beat = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), **self.counters, **values}
            path = self.folder / "heartbeat.json"
            # No fsync: a lost heartbeat is renewed in a second, and thousands of tasks share the file system.
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(beat))
            temporary.rename(path)


def read_beat(folder: Path) -> dict[str, Any] | None:
    """The last heartbeat of an attempt's folder; None if there is none, or a power cut left it empty."""
    try:
        beat = json.loads((folder / "heartbeat.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return beat if isinstance(beat, dict) else None


def is_alive(stage_folder: Path, attempt_id: str) -> bool:
    """Whether an attempt still runs: it has not said how it ended, its heart was heard lately, and if it ran on this
    machine its process is there."""
    folder = stage_folder / "attempts" / attempt_id
    beat = read_beat(folder)
    if beat is None or (folder / "ended.json").exists() or time.time() - beat["time"] > SILENT_AFTER:
        return False
    return beat["host"] != socket.gethostname() or Path(f"/proc/{beat['pid']}").exists()


def _cause(error: BaseException) -> str:
    if isinstance(error, UserError):
        return "refused"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Stopped):
        return "stopped"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
