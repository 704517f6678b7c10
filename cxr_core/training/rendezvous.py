"""The folder in which one group of ranks meets: files by which their starter and they tell each other what is going on.

No file has two writers. The starter writes GROUP, ORDER and OVER; rank 0 ADDRESS, PREFLIGHT and ANSWER; each rank its
beat and, if it fails, its last words. Imports nothing heavy: a rank's heart beats before torch is loaded.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError

GROUP = "group.json"
"""What the ranks work on."""
ORDER = "order.json"
"""The shard that is to be made now, with a number that rises."""
ANSWER = "answer.json"
"""What was made, with the number of its order."""
OVER = "over"
"""The group has ended: whoever is left ends too."""
ADDRESS = "address.json"
"""Host and port of rank 0."""
PREFLIGHT = "preflight.json"
"""How fast the ranks talk, and by what."""

_BEAT_EVERY = 1.0


@dataclass(frozen=True)
class RankPlace:
    """Where one rank is among the others. `gpus` is what the scheduler gave each node; None without a scheduler."""

    folder: Path
    rank: int
    local_rank: int
    size: int
    num_local: int
    first_port: int = 0
    gpus: int | None = None


def beat_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def words_path(folder: Path, rank: int) -> Path:
    """Why a rank failed, in its own words."""
    return folder / f"rank-{rank}.error.json"


def log_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def put(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON so that readers see all of it or nothing. Without fsync: it is of use only while its writer lives."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def get(path: Path) -> dict[str, Any] | None:
    """What `put` wrote; None if it is not there (or, on a network file system, not whole yet)."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def wait_for(path: Path, seconds: float) -> Path:
    """`path`, once it is there. Raises UserError if it does not come."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"not there after {seconds:.0f} s",
                where=f"{path} on {socket.gethostname()}",
                mend="all nodes must see the run folder: cxr doctor --cluster NAME",
            )
        time.sleep(0.2)
    return path


def preflights(stage_folder: Path) -> list[dict[str, Any]]:
    """What ranks of a stage found out about themselves, once for each group that met, the oldest first."""
    files = [*stage_folder.glob(f"attempts/*/ranks/{PREFLIGHT}"), *stage_folder.glob(f"submits/*/*.ranks/{PREFLIGHT}")]
    found = (get(path) for path in sorted(files, key=lambda path: path.stat().st_mtime))
    return [about for about in found if about is not None]


def words_of(preflight: Mapping[str, Any]) -> str:
    """The same for people."""
    ranks, nodes = (f"{preflight[name]} {name.rstrip('s' * (preflight[name] == 1))}" for name in ("ranks", "nodes"))
    speed = f"{preflight['mib']} MiB summed over all at {preflight['gib_per_second']:.3g} GiB/s"
    shared = f"ZeRO {preflight['zero']}, " if "zero" in preflight else ""
    return f"{ranks} on {nodes}, {shared}{preflight['transport']}, {speed}"


class Beat:
    """Says once a second that this rank lives and what it is at; ends the process when the others are gone.

    A thread of its own does it: the rank may be waiting for others in one long operation.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.values: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
        self._parent = os.getppid()
        self._say()
        threading.Thread(target=self._run, daemon=True).start()

    def note(self, step: int) -> None:
        """This rank begins a step."""
        self.values["step"] = step

    def begin(self, number: int) -> None:
        """The order of this number is begun; what was told of an earlier one is past."""
        self.values = {**self.values, "number": number, "progress": {}}

    def progress(self, values: dict[str, Any]) -> None:
        """What a bar says (see `runs.progress`)."""
        self.values = {**self.values, "progress": values}

    def _say(self) -> None:
        put(beat_path(self.folder, self.rank), {"time": time.time(), **self.values})

    def _run(self) -> None:
        while True:
            time.sleep(_BEAT_EVERY)
            if os.getppid() != self._parent or (self.folder / OVER).exists():
                os._exit(0)  # how the attempt ends, its starter decides
            try:
                self._say()
            except OSError:  # of a full disk the work itself will tell
                continue
