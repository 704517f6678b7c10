"""One attempt: a process that works on shards, what happened in it, and a heartbeat while it lives.

No file here ever has two writers: everything an attempt writes lies in its own folder.
"""

import json
import os
import socket
import time
import traceback
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Required, Self

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.log import json_lines
from cxr_core.runs.causes import Stopped, cause_of
from cxr_core.runs.door import BadFileError, below, parse
from cxr_core.runs.files import json_text
from cxr_core.runs.outcome import Liveness
from cxr_core.runs.progress import heartbeat
from cxr_core.runs.provenance import code, now
from cxr_core.runs.records import Count, Moment, OptionalName, Seconds, without_nan

BEAT_EVERY = 1.0
"""Least seconds between two writes of the heartbeat."""

LOG = "log.jsonl"
"""In an attempt's folder: a log record a line."""

SILENT_AFTER = 120.0
"""Seconds without a heartbeat after which an attempt that did not say how it ended counts as dead."""


Purpose = Literal["useful", "duplicated", "failed"]
"""What the time of a shard was good for: it was committed, another attempt was first, or it failed."""


class _Spent(TypedDict, total=False):
    useful: Seconds
    duplicated: Seconds
    failed: Seconds


class AttemptState(TypedDict, total=False):
    """What an attempt says of itself from its start on. What a job says besides, such as further figures of a
    training, is kept as it is."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    started: Moment
    host: str
    pid: Count
    gpus: Annotated[int, Field(ge=0, le=100_000)]
    job: OptionalName
    restart: Annotated[int, Field(ge=0, le=1 << 31)] | Annotated[str, Field(pattern="^[0-9]{1,9}$")]
    node: str
    shards: Count
    items: Count
    duplicates: Count
    failed: Count
    seconds_in: _Spent
    shard: OptionalName
    since: Moment
    doing: str
    done: Count
    total: Count
    step: Count
    loss: float | None
    images_per_second: float | None
    gpu_gib: float | None
    seconds_left: Annotated[float, Field(ge=-1e11, le=1e11)] | None


class Heartbeat(AttemptState, total=False):
    """heartbeat.json: how far an attempt was when it was last heard."""

    time: Required[Moment]
    host: Required[str]  # type: ignore[misc]
    pid: Required[Count]  # type: ignore[misc]


class End(AttemptState, total=False):
    """ended.json: how it ended."""

    cause: Required[str]
    detail: str
    time: str
    seconds: Seconds


def new_attempt_id(environ: dict[str, str] | None = None) -> str:
    """`<job>-<restart>-<random>`: unique over jobs, requeues and twins. Outside a scheduler the job is `pid<n>`."""
    environ = dict(os.environ) if environ is None else environ
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID")
    task = environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else job or f"pid{os.getpid()}"
    return f"{name}-{environ.get('SLURM_RESTART_COUNT', '0')}-{os.urandom(3).hex()}"


def allocated_gpus(environ: dict[str, str] | None = None) -> int:
    """How many GPUs this process may use: those that the scheduler shows it, else all NVIDIA ones of the machine."""
    environ = dict(os.environ) if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    # A job that asked for no GPU may see those of its node all the same; they are not its own.
    if "SLURM_JOB_ID" in environ:
        return 0
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


HOST_PID = "CXR_HOST_PID"
"""Variable that a container's start sets (see `containers/enter.sh`): inside, other processes cannot be seen."""


def _origin(environ: dict[str, str]) -> dict[str, Any]:
    """Where an attempt runs: host, process, GPUs and, within a scheduler, job and node."""
    job, task = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    slurm = {
        "job": f"{job}_{task}" if job and task else job,
        "job_id": environ.get("SLURM_JOB_ID"),
        "restart": environ.get("SLURM_RESTART_COUNT", "0") if job else None,
        "node": environ.get("SLURMD_NODENAME"),
    }
    # Of a task on several nodes, each process sees the GPUs of its own.
    gpus = allocated_gpus(environ) * int(environ.get("SLURM_STEP_NUM_NODES", "1"))
    # A container has process numbers of its own; there, the one that this machine knows it by is told.
    pid = int(environ.get(HOST_PID) or os.getpid())
    machine = {"host": socket.gethostname(), "pid": pid, "gpus": gpus}
    return machine | {name: value for name, value in slurm.items() if value is not None}


at_end: ContextVar[ExitStack | None] = ContextVar("at_end", default=None)
"""What is to be closed when the attempt ends, such as processes that make one shard after another; None outside one."""


class Attempt(AbstractContextManager["Attempt"]):
    """The attempt's folder `<stage>/attempts/<id>/`: events, log, heartbeat, how it ended, and a work folder.

    events.jsonl is for programs; log.jsonl holds the records of the loggers (see `cxr_core.log`).
    heartbeat.json and ended.json hold the counters from the attempt's start on, so that neither events nor receipts
    have to be read to know how far it is and what its time went into.
    """

    def __init__(self, stage_folder: Path, attempt_id: str | None = None) -> None:
        self.id = attempt_id or new_attempt_id()
        self.place = below(stage_folder, 1) / "attempts" / self.id
        self.counters: dict[str, Any] = {"shards": 0, "items": 0, "problems": 0, "duplicates": 0, "failed": 0}
        self.seconds_in = {"useful": 0.0, "duplicated": 0.0, "failed": 0.0}
        self.cause = ""
        """How it ends, where the error alone does not say it."""
        self._shard: dict[str, Any] = {}
        self._last_beat = 0.0
        self._start = time.monotonic()
        self._origin = {"started": time.time(), **_origin(dict(os.environ))}

    @property
    def folder(self) -> Path:
        return self.place.path

    def __enter__(self) -> Self:
        self.place.make()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.event("started", **self._origin, visible=visible, cpus=len(os.sched_getaffinity(0)), code=code())
        self._token = heartbeat.set(self.beat)
        self._at_end = ExitStack()
        self._at_end_token = at_end.set(self._at_end)
        self.beat({}, force=True)
        self._log = ExitStack()
        self._log.enter_context(json_lines(partial(self.place.append, LOG), self._about))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._log:
            self._end(error)

    def _about(self) -> dict[str, str]:
        """Of a log record: what was worked on."""
        stage = self.place.path.parents[1].name
        return {"stage": stage, "shard": self._shard.get("shard", ""), "attempt": self.id}

    def _end(self, error: BaseException | None) -> None:
        at_end.reset(self._at_end_token)
        with suppress(OSError):  # of a disk that is full
            self._at_end.close()
        heartbeat.reset(self._token)
        self.place.remove("work")
        self._leave("failed")
        cause = self.cause or ("finished" if error is None else cause_of(error))
        end = {"cause": cause, "detail": str(error or "")}
        # A disk that is full refuses these two; how it ended is told by ended.json all the same.
        with suppress(OSError):
            self.event("ended", **end)
            if error is not None and not isinstance(error, UserError | KeyboardInterrupt | Stopped):
                self.place.append("traceback.txt", "".join(traceback.format_exception(error)))
        self._write_end({**end, "time": now(), "seconds": self.seconds, **self._state()})

    def _write_end(self, record: dict[str, Any]) -> None:
        text = json_text(record)
        try:
            self.place.write("ended.json", text)
        except OSError:
            # On a full disk it gets the room of the heartbeat, of which it tells all.
            self.place.remove("heartbeat.json")
            self.place.write("ended.json", text)

    def enter_shard(self, shard: str) -> None:
        """Work on a shard begins."""
        self.event("shard started", shard=shard)
        self._shard = {"shard": shard, "since": time.time()}
        self.beat({}, force=True)

    def leave_shard(self, shard: str, counted_as: Purpose, what: str, **fields: Any) -> float:
        """Work on a shard has ended: `what` goes to the events, its time to what it was good for. Returns seconds."""
        seconds = self._leave(counted_as)
        self.event(what, shard=shard, seconds=seconds, **fields)
        self.beat({}, force=True)
        return seconds

    def _leave(self, counted_as: Purpose) -> float:
        if not self._shard:
            return 0.0
        seconds = round(max(time.time() - self._shard["since"], 0.0), 3)
        self.seconds_in[counted_as] = round(self.seconds_in[counted_as] + seconds, 3)
        self._shard = {}
        return seconds

    def _state(self) -> dict[str, Any]:
        return {**self._origin, **self.counters, "seconds_in": self.seconds_in, **self._shard}

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    @property
    def work(self) -> Path:
        """Where shards are made before they are committed; in the run's file system, so that a rename suffices."""
        return self.folder / "work"

    def event(self, what: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        line = json.dumps(without_nan({"time": now(), "what": what, **fields}), ensure_ascii=False, allow_nan=False)
        self.place.append("events.jsonl", line + "\n")

    def beat(self, values: dict[str, Any], *, force: bool = False) -> None:
        """Say that the attempt lives and how far it is; at most once a second unless forced."""
        moment = time.monotonic()
        if force or moment - self._last_beat >= BEAT_EVERY:
            self._last_beat = moment
            beat = {"time": time.time(), **self._state(), **without_nan(values)}
            # No fsync: a lost heartbeat is renewed in a second, and thousands of tasks share the file system.
            self.place.write("heartbeat.json", json.dumps(beat, allow_nan=False), durable=False)


def read_beat(folder: Path) -> Heartbeat | None:
    """The last heartbeat of an attempt's folder; None if there is none, or a power cut left it empty. Raises
    BadFileError if it is damaged."""
    place = below(folder, 3)
    try:
        return parse(text, Heartbeat, folder / "heartbeat.json") if (text := place.read("heartbeat.json")) else None
    except FileNotFoundError:
        return None


def liveness_of(folder: Path) -> Liveness:
    """How it stands with the attempt of a folder. "gone" is certain, on this machine, whose processes can be seen; an
    attempt elsewhere whose heart is not heard is "silent": it may be dead, or cut off and still at work."""
    if below(folder, 3).is_file("ended.json"):
        return "ended"
    try:
        beat = read_beat(folder)
    except BadFileError:
        return "silent"
    return "silent" if beat is None else liveness_by(beat)


def liveness_by(beat: Heartbeat) -> Liveness:
    """The same, of an attempt that did not say how it ended and whose last heartbeat is `beat`."""
    sees_processes = beat["host"] == socket.gethostname() and HOST_PID not in os.environ
    if sees_processes and not Path(f"/proc/{beat['pid']}").exists():
        return "gone"
    return "silent" if time.time() - beat["time"] > SILENT_AFTER else "running"


def is_alive(stage_folder: Path, attempt_id: str) -> bool:
    """Whether an attempt still runs: it has not said how it ended, its heart was heard lately, and if it ran on this
    machine its process is there."""
    return liveness_of(stage_folder / "attempts" / attempt_id) == "running"
