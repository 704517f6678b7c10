"""What made a run: code, versions, machine."""

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.runs.code import Code, commit_of, git
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.image import image, is_seen_from_outside

_FOLDER = Path(cxr_core.__file__).resolve().parents[1]
"""Of the code: a checkout, or where packages are installed."""


def now() -> str:
    """The time in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def code() -> dict[str, str]:
    """Which code runs: version, commit if it is known, sha256 of its files, sha256 of the container image
    if it is in one."""
    return {
        "version": cxr_core.__version__,
        "commit": commit_of(_FOLDER),
        "sha256": _sha256(),
        "image": image(),
    }


def _sha256() -> str:
    """Of the code of this process; "" where it works for an image whose code it cannot see."""
    return "" if is_seen_from_outside() else Code.here().sha256


def provenance(root: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the moment a run is created."""
    return {
        "name": config.get("name", root.name),
        "created": now(),
        "config_sha256": sha256_text(canonical_json(dict(config))),
        "seed": config.get("seed"),
        "git": {
            "commit": code()["commit"],
            "dirty": bool(git(_FOLDER, "status", "--porcelain", "--untracked-files=no")),
        },
        "code_sha256": code()["sha256"],
        "image": code()["image"],
        "versions": {"cxr": cxr_core.__version__, **Code.here().libraries, "python": platform.python_version()},
        "platform": platform.platform(),
        "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)),
    }
