"""The lock file of an image: every package with its version and sha256, resolved once from pyproject.toml."""

import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cxr_core.errors import UserError
from cxr_core.runs.files import write_atomic

Target = Literal["cpu", "cuda"]

_EXTRAS: Mapping[Target, str] = {"cpu": "", "cuda": "[gpu]"}

_BUILDERS = ("setuptools", "wheel")
"""What builds those packages that come as source, and the project: locked as all else is, and never fetched aside."""


def lock_path(source: Path, target: Target) -> Path:
    return source / "containers" / f"{target}.lock"


def make_lock(source: Path, target: Target) -> Path:
    """Resolve the dependencies of the checkout `source` with this Python's pip and write `containers/<target>.lock`.

    Raises UserError with pip's words if they cannot be resolved, and if the cuda image would get a CPU build of torch.
    """
    path = lock_path(source, target)
    header = (
        f"# Made by `cxr image lock --target {target}` from pyproject.toml, for Python {sys.version_info[0]}."
        f"{sys.version_info[1]} on {platform.machine()}.\n"
    )
    lines = sorted(_lines(_resolve(source, target)))
    if target == "cuda" and any(re.match(r"torch==\S+\+cpu ", line) for line in lines):
        raise UserError(
            "pip would install a CPU build of torch into the cuda image",
            where=str(path),
            mend="its settings name an index or a folder of CPU builds: set PIP_CONFIG_FILE=/dev/null for this command",
        )
    write_atomic(path, header + "".join(f"{line}\n" for line in lines))
    return path


def _resolve(source: Path, target: Target) -> Any:
    """pip's report on what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        command = [sys.executable, "-m", "pip", "install", *options, f"{source}{_EXTRAS[target]}", *_BUILDERS]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise UserError("; ".join(errors) or done.stderr, where=str(source), mend="see what pip says")
        return json.loads(report.read_text())


def _lines(report: Any) -> Iterator[str]:
    for entry in report["install"]:
        if entry["is_direct"]:  # the project itself
            continue
        name = re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower()
        sha256 = entry["download_info"]["archive_info"]["hashes"]["sha256"]
        yield f"{name}=={entry['metadata']['version']} --hash=sha256:{sha256}"


def packages(lock: Path) -> dict[str, str]:
    """Name -> version of a lock file."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split()[0].split("==") for line in lines)
