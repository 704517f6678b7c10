"""The lock file of an image: every package with its version and sha256s, resolved by uv from pyproject.toml."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cxr_core.errors import UserError
from cxr_core.runs.files import write_atomic

Target = Literal["cpu", "cuda"]

_EXTRAS: Mapping[Target, list[str]] = {"cpu": [], "cuda": ["--extra", "gpu"]}

_BUILDERS = "setuptools\nwheel\n"
"""What builds those packages that come as source, and the project: locked as all else is, and never fetched aside."""

_OF_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CONSTRAINT": "UV_CONSTRAINT",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""pip's variables, by which install.sh fetches what is locked here, and uv's for the same."""


def lock_path(source: Path, target: Target) -> Path:
    return source / "containers" / f"{target}.lock"


def make_lock(source: Path, target: Target) -> Path:
    """Resolve the dependencies of the checkout `source` for this Python and write `containers/<target>.lock`.

    A line holds a package and the sha256 of each of its files. uv's settings apply, and pip's variables. Raises
    UserError with uv's words if they cannot be resolved, and if the cuda image would get a CPU build of torch.
    """
    path = lock_path(source, target)
    header = (
        f"# Made by `cxr image lock --target {target}` from pyproject.toml, for Python {sys.version_info[0]}."
        f"{sys.version_info[1]} on {platform.machine()}.\n"
    )
    lines = _one_a_package(_resolve(source, target))
    if target == "cuda" and any(re.match(r"torch==\S+\+cpu ", line) for line in lines):
        raise UserError(
            "a CPU build of torch would be installed in the cuda image",
            where=str(path),
            hint="uv's settings or pip's variables name an index or a folder of CPU builds: leave them out for this "
            "command, e.g. `env -u PIP_FIND_LINKS cxr image lock --target cuda`",
        )
    write_atomic(path, header + "".join(f"{line}\n" for line in lines))
    return path


def _resolve(source: Path, target: Target) -> str:
    """uv's list of packages, which goes over several lines each."""
    options = ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--python", sys.executable]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, *_EXTRAS[target], "pyproject.toml", "-"]
    same = {name: os.environ[of_pip] for of_pip, name in _OF_PIP.items() if of_pip in os.environ}
    done = subprocess.run(
        command, cwd=source, env=same | os.environ, input=_BUILDERS, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        is_there = "No module named uv" not in done.stderr
        hint = "see what uv says" if is_there else f"{sys.executable} -m pip install uv"
        raise UserError(done.stderr.strip(), where=str(source / "pyproject.toml"), hint=hint)
    return done.stdout


def _one_a_package(text: str) -> list[str]:
    """As install.sh looks for them."""
    return sorted(" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if "==" in line)


def packages(lock: Path) -> dict[str, str]:
    """Name -> version of a lock file."""
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split()[0].split("==") for line in lines)
