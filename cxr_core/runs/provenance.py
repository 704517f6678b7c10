"""What made a run: code, versions, machine."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.image import image

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "deepspeed",
    "numpy",
    "pandas",
    "opencv-python-headless",
)


def now() -> str:
    """The time in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def code() -> dict[str, str]:
    """Which code runs: version, commit of the checkout if it is one, sha256 of the container image if it is in one."""
    commit = _git("rev-parse", "HEAD") or os.environ.get("CXR_GIT_SHA", "")
    return {"version": cxr_core.__version__, "commit": commit, "image": image()}


def provenance(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the moment a run is created."""
    return {
        "name": config.get("name", root.name),
        "created": now(),
        "config_sha256": sha256_text(canonical_json(dict(config))),
        "seed": config.get("seed"),
        "git": {"commit": code()["commit"], "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))},
        "image": code()["image"],
        "versions": {"cxr": cxr_core.__version__, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(*words: str) -> str:
    """What git says of the code's checkout; empty where the code is not in one, or a node has no git."""
    folder = Path(cxr_core.__file__).resolve().parents[1]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
