"""`python -m docs.tools.header COMMAND`: the header of a new result, which `make proof` writes before the output."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def lines(command: str) -> list[str]:
    """Day, commit, machine and command. Whoever reads the output adds `about`, `what` and `figure`."""
    return [
        f"# date: {datetime.now(UTC):%Y-%m-%d}",
        f"# commit: {_commit()}",
        f"# machine: {_processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}, torch {version('torch')}",
        f"# command: {command}",
        "# about: the whole",
        "",
    ]


def _commit() -> str:
    """The commit, and whether files differ from it; `not recorded` without git."""
    asked = ("git", "describe", "--always", "--dirty=, with changes", "--exclude=*")
    try:
        return subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not recorded"


def _processor() -> str:
    """The name of the processor, as the kernel tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        told = []
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines(" ".join(sys.argv[1:]))) + "\n")
