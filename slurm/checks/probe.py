"""What a node sees of the run folder: run as a script on each node of a small job, with no package but Python's own.

`python probe.py FOLDER SCRATCH` writes into FOLDER and ends with `report-<rank>.json`. The launcher and the nodes
answer each other's files there, so that every time is taken by one clock.
"""

import errno
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds after which a file of another machine counts as never seen."""

ROUNDS = 3

POLL = 0.02


def put(folder: Path, name: str, text: str = "") -> None:
    """Make a file that is whole as soon as it is seen."""
    temporary = folder / f".{name}.tmp"
    temporary.write_text(text)
    temporary.rename(folder / name)


def seen(folder: Path, name: str, patience: float = PATIENCE) -> bool:
    """Wait for a file by listing its folder, as a run does."""
    deadline = time.monotonic() + patience
    while name not in (path.name for path in folder.iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def answer_the_launcher(folder: Path, rank: int) -> bool:
    put(folder, f"started-{rank}", json.dumps({"host": node_name()}))
    if not seen(folder, f"ping-{rank}"):
        return False
    put(folder, f"pong-{rank}", json.dumps({"time": time.time()}))
    return True


def round_trips(folder: Path, rank: int, num_nodes: int) -> list[float]:
    """Seconds from a file of ours to the answer of the other node, on the first node; nothing if one is not seen."""
    times = []
    for number in range(ROUNDS if num_nodes > 1 and rank < 2 else 0):
        start = time.monotonic()
        if rank == 0:
            put(folder, f"call-{number}")
        if not seen(folder, f"{'reply' if rank == 0 else 'call'}-{number}"):
            return []
        if rank == 1:
            put(folder, f"reply-{number}")
        times.append(time.monotonic() - start)
    return times


def race(folder: Path, rank: int, num_nodes: int) -> dict[str, Any]:
    """All nodes link a file of their own to one name at once; then each tries again, which must be refused."""
    mine = folder / f"mine-{rank}"
    put(folder, mine.name, str(rank))
    for other in range(num_nodes):
        seen(folder, f"mine-{other}")
    return {"first": link(mine, folder / "winner"), "again": link(mine, folder / "winner")}


def link(source: Path, target: Path) -> str:
    """`ok`, or the name of the error: EEXIST, EPERM ..."""
    try:
        os.link(source, target)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def look_at_scratch(given: str, run_folder: Path) -> dict[str, Any]:
    """Where temporary files go on this node, and whether that is another disk than the run folder's."""
    path = Path(os.path.expandvars(given) if given else tempfile.gettempdir())
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        return {"path": str(path), "error": error.strerror}
    own = path.stat().st_dev != run_folder.stat().st_dev
    return {"path": str(path), "free": shutil.disk_usage(path).free, "own": own}


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def main(folder: Path, scratch: str) -> None:
    rank, num_nodes = int(os.environ.get("SLURM_NODEID", "0")), int(os.environ.get("SLURM_NNODES", "1"))
    report = {
        "node": node_name(),
        "answered": answer_the_launcher(folder, rank),
        "round_trips": round_trips(folder, rank, num_nodes),
        "links": race(folder, rank, num_nodes),
        "scratch": look_at_scratch(scratch, folder),
        "python": platform.python_version(),
        "executable": sys.executable,
        "sbatch": shutil.which("sbatch") is not None,
    }
    put(folder, f"report-{rank}.json", json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
