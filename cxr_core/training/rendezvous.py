"""The folder in which one group of ranks meets: files by which their starter and they tell each other what is going on.

It is private to the user (see `PrivatePlace`), and holds the secret by which ranks know each other. No file has two
writers. The starter writes SECRET, GROUP, ORDER and OVER; rank 0 ADDRESS, PREFLIGHT and ANSWER; each rank its beat
and, if it fails, its last words. Imports nothing heavy: a rank's heart beats before torch is loaded.
"""

import errno
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.runs.door import STRICT, BadFileError, Place, parse
from cxr_core.runs.plan import Shard
from cxr_core.runs.private import PrivatePlace

log = room_log(__name__)

T = TypeVar("T")

SECRET = "secret"
"""Random bytes, which who reads this folder knows and nobody else: mode 0600."""
GROUP = "group.json"
"""What the ranks work on."""
ORDER = "order.json"
"""The shard that is to be made now, with a number that rises."""
ANSWER = "answer.json"
"""What was made, with the number of its order."""
OVER = "over"
"""The group has ended: whoever is left ends too."""
ADDRESS = "address.json"
"""Where rank 0 listens."""
PREFLIGHT = "preflight.json"
"""How fast the ranks talk, and by what."""

BEAT_EVERY = 1.0
_SECRET_BYTES = 32


@dataclass(frozen=True)
class About:
    """GROUP. `gpus` is what the scheduler gave each node; None without a scheduler."""

    __pydantic_config__ = STRICT

    settings: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    stage: str
    size: int
    num_local: int
    gpus: int | None
    format: Literal[1] = 1


@dataclass(frozen=True)
class Order:
    """ORDER: a shard and the folder to make it in; without a shard there will be no more."""

    __pydantic_config__ = STRICT

    number: int
    shard: Shard | None = None
    work: str = ""


@dataclass(frozen=True)
class RankAnswer:
    """ANSWER: an `Output`, with the number of its order."""

    __pydantic_config__ = STRICT

    number: int
    paths: dict[str, str]
    digest: str
    counts: dict[str, int]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Address:
    """ADDRESS: what rank 0's node is called, each to be tried, and the port."""

    __pydantic_config__ = STRICT

    hosts: list[str]
    port: int


@dataclass(frozen=True)
class Preflight:
    """PREFLIGHT. `zero` of ranks that can share a model alone."""

    __pydantic_config__ = STRICT

    ranks: int
    nodes: int
    mib: int
    seconds: float
    gib_per_second: float
    transport: str
    zero: int | None = None
    format: Literal[1] = 1

    @property
    def as_facts(self) -> dict[str, Any]:
        """As it is written."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Heard:
    """A rank's beat: where it is, its step, the number of its order and what its bar says; `strangers` of rank 0."""

    __pydantic_config__ = STRICT

    time: float
    host: str
    pid: int
    step: int | None = None
    number: int | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    strangers: int = 0


@dataclass(frozen=True)
class Refusal:
    """The parts of a UserError."""

    __pydantic_config__ = STRICT

    what: str
    where: str
    hint: str


@dataclass(frozen=True)
class Words:
    """Why a rank failed, in its own words; `user` if it is a UserError."""

    __pydantic_config__ = STRICT

    time: float
    text: str
    user: Refusal | None = None


@dataclass(frozen=True)
class Meeting(PrivatePlace):
    """The folder. Raises BadFileError where it, or a file in it, may be another user's."""

    @classmethod
    def call(cls, folder: Path) -> Self:
        """A new one, with a secret of its own, or an empty one of this user."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        meeting = cls.at(folder).make()
        meeting.write(SECRET, os.urandom(_SECRET_BYTES), mode=0o600)
        return meeting

    @property
    def secret(self) -> bytes:
        secret = self.read(SECRET, limit=_SECRET_BYTES)
        if len(secret) != _SECRET_BYTES:
            raise BadFileError(f"{len(secret)} bytes, not {_SECRET_BYTES}", self.path / SECRET)
        return secret

    def put(self, name: str, value: Any) -> None:
        """Write a record as JSON. Without fsync: it is of use only while its writer lives."""
        told = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        self.write(name, json.dumps(told, allow_nan=False), durable=False)

    def get(self, name: str, kind: type[T]) -> T | None:
        """What `put` wrote; None if it is not there (or, on a network file system, not whole yet)."""
        try:
            data = self.read(name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return None
        return parse(data, kind, self.path / name) if data else None

    def wait_for(self, name: str, kind: type[T], seconds: float) -> T:
        """The same, once it is there. Raises UserError if it does not come."""
        wait_until(lambda: self.has(name), self.path / name, seconds)
        value = self.get(name, kind)
        assert value is not None
        return value

    def end(self) -> None:
        """Let whoever is left end."""
        self.make().write(OVER, b"", durable=False)

    @property
    def is_over(self) -> bool:
        return self.has(OVER)

    def log(self, rank: int) -> int:
        """A descriptor of the rank's log, to append to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.handle() as here:
            return os.open(log_name(rank), flags, 0o644, dir_fd=here)


@dataclass(frozen=True)
class RankPlace:
    """Where one rank is among the others. `gpus` is what the scheduler gave each node; None without a scheduler."""

    folder: Path
    rank: int
    local_rank: int
    size: int
    num_local: int
    gpus: int | None = None

    @property
    def meeting(self) -> Meeting:
        return Meeting.at(self.folder)


def beat_name(rank: int) -> str:
    return f"rank-{rank}.json"


def words_name(rank: int) -> str:
    return f"rank-{rank}.error.json"


def log_name(rank: int) -> str:
    return f"rank-{rank}.log"


def wait_until(is_there: Callable[[], bool], path: Path, seconds: float) -> None:
    """Wait for a file of another node. Raises UserError if it does not come."""
    deadline = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > deadline:
            raise UserError(
                f"not there after {seconds:.0f} s",
                where=f"{path} on {socket.gethostname()}",
                hint="all nodes must see the run folder: cxr doctor --cluster NAME",
            )
        time.sleep(0.2)


def published(folder: Path) -> Path:
    """Where the starter repeats PREFLIGHT for those who may read the run, but not the folder of the meeting."""
    return folder.with_name(f"{folder.name}.json")


def preflights(stage_folder: Path) -> list[dict[str, Any]]:
    """What ranks of a stage found out about themselves, once for each group that met, the oldest first.

    What is damaged, or private to another user, is left out.
    """
    found = []
    for place, name in _meetings(Place(stage_folder)):
        for where, file in ((place, f"{name}.json"), (place / name, PREFLIGHT)):
            try:
                about, when = where.json(file, Preflight), where.stat(file)
            except (OSError, BadFileError):
                continue
            found.append((when.st_mtime if when else 0.0, about.as_facts))
            break
    return [told for _, told in sorted(found, key=lambda pair: pair[0])]


def _meetings(stage: Place) -> Iterator[tuple[Place, str]]:
    """Folders in which ranks may have met, each as the folder around it and its name."""
    yield from ((stage / "attempts" / attempt.name, "ranks") for attempt in _entries(stage / "attempts"))
    for submit in (stage / "submits" / entry.name for entry in _entries(stage / "submits")):
        yield from ((submit, entry.name) for entry in _entries(submit) if entry.name.endswith(".ranks"))


def _entries(place: Place) -> list[Any]:
    try:
        return [entry for entry in place.entries() if entry.is_folder]
    except (OSError, BadFileError):
        return []


def words_of(preflight: Mapping[str, Any]) -> str:
    """The same for people."""
    ranks, nodes = (f"{preflight[name]} {name.rstrip('s' * (preflight[name] == 1))}" for name in ("ranks", "nodes"))
    speed = f"{preflight['mib']} MiB summed over all at {preflight['gib_per_second']:.3g} GiB/s"
    shared = f"ZeRO {preflight['zero']}, " if "zero" in preflight else ""
    return f"{ranks} on {nodes}, {shared}{preflight['transport']}, {speed}"


class RankHeartbeat:
    """Says once a second that this rank lives and what it is at; ends the process when the others are gone.

    A thread of its own does it: the rank may be waiting for others in one long operation.
    """

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank = meeting, rank
        self.said = Heard(time.time(), socket.gethostname(), os.getpid())
        self._parent, self._strangers = os.getppid(), 0
        self._say()
        threading.Thread(target=self._run, daemon=True).start()

    def note(self, step: int) -> None:
        """This rank begins a step."""
        self.said = replace(self.said, step=step)

    def begin(self, number: int) -> None:
        """The order of this number is begun; what was told of an earlier one is past."""
        self.said = replace(self.said, number=number, progress={})

    def progress(self, values: dict[str, Any]) -> None:
        """What a bar says (see `runs.progress`); a loss that is not finite is no JSON."""
        told = {key: value for key, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        self.said = replace(self.said, progress=told)

    def strangers(self, num: int, last: str) -> None:
        """So many that are no ranks have connected, the last one from this address."""
        log.warning("a stranger at %s connected and was turned away: %d so far", last, num)
        self._strangers = num

    def _say(self) -> None:
        self.meeting.put(beat_name(self.rank), replace(self.said, time=time.time(), strangers=self._strangers))

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_EVERY)
            try:
                if os.getppid() != self._parent or self.meeting.is_over:
                    os._exit(0)  # how the attempt ends, its starter decides
                self._say()
            except BadFileError as error:
                log.error("%s", error)
                os._exit(0)
            except OSError:  # of a full disk the work itself will tell
                continue
