"""A Debian with Python as a folder: what images are built on where no registry is in reach."""

import os
import shutil
import subprocess
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.files import remove, sha256_text

PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates")

EMPTIED = ("dev", "var/cache/apt/archives", "var/lib/apt/lists")
"""Folders whose contents do not belong in an image: engines make a `dev` of their own, and the rest is downloads."""

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where debootstrap lies, which is not in every user's PATH."""

_STDERR = 2


def make_base(folder: Path, release: str = "", mirror: str = "", *, packages: tuple[str, ...] = PACKAGES) -> Path:
    """Make a Debian system in a new folder, by debootstrap; returns `folder`.

    `release` is this machine's by default, `mirror` the one that this machine is set up for. The folder has its name
    only once it is whole. Raises UserError if it is there, if this user is not root, or if debootstrap fails.
    """
    if folder.exists():
        raise UserError("is already there", where=str(folder), hint="remove it, or name another folder")
    if os.geteuid() != 0:
        raise UserError("only root may make a Debian system", hint="use sudo, or take a base by digest from a registry")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    words = ["--variant=minbase", f"--include={','.join(packages)}", release or codename(), str(made)]
    try:
        _debootstrap([*words, *([mirror] if mirror else _mirror())], folder)
        for name in EMPTIED:
            empty(made / name)
        made.chmod(0o755)
        made.rename(folder)
    finally:
        remove(made)
    return folder


def recipe_sha256(packages: tuple[str, ...] = PACKAGES) -> str:
    """Digest of all that decides what `make_base` makes on this machine: this file, the packages, the release."""
    return sha256_text("\0".join((Path(__file__).read_text(), *packages, codename())))


def empty(folder: Path) -> None:
    """Remove what lies in a folder, not the folder. A link to a folder is a link: it alone goes."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def codename() -> str:
    """The Debian release of this machine. Raises UserError where it is none."""
    path = Path("/etc/os-release")
    lines = path.read_text().splitlines() if path.exists() else []
    found = dict(line.split("=", 1) for line in lines if "=" in line).get("VERSION_CODENAME", "").strip('"')
    if not found:
        raise UserError("this machine names no release of Debian", where=str(path), hint="name one: --release bookworm")
    return found


def _debootstrap(words: list[str], folder: Path) -> None:
    environ = os.environ | {"PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}"}
    try:
        done = subprocess.run(["debootstrap", *words], check=False, env=environ, stdout=_STDERR)
    except FileNotFoundError:
        raise UserError("there is no debootstrap on this machine", hint="install Debian's package of it") from None
    if done.returncode != 0:
        raise UserError(
            "debootstrap failed: see above", where=str(folder), hint="is the mirror in reach? --mirror names another"
        )


def _mirror() -> list[str]:
    """The mirror that this machine is set up for; debootstrap's default without."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    return [line.split()[1] for line in lines if line.startswith("URIs:")][:1]
