"""What made a run: code, versions, machine."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.runs.attempt import now
from cxr_core.runs.files import canonical_json, sha256_text

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


def provenance(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the moment a run is created; no path or user name of the machine is among them."""
    return {
        "name": config.get("name", root.name),
        "created": now(),
        "config_sha256": sha256_text(canonical_json(dict(config))),
        "seed": config.get("seed"),
        "git": _git(),
        "image": os.environ.get("CXR_IMAGE_SHA256", ""),
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


def _git() -> dict[str, Any]:
    """Commit of the code and whether it was changed since; empty where the code is not a checkout."""
    folder = Path(cxr_core.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return {"commit": os.environ.get("CXR_GIT_SHA", ""), "dirty": False}

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
