"""Build an image from a checkout: a SIF by apptainer and cxr.def, or an OCI image by buildah and the Dockerfile."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cxr_core
from containers.engine import engine
from containers.lock import Target, lock_path
from containers.pull import SQUASHFS
from containers.reference import Reference
from containers.store import Image, Store
from cxr_core.errors import UserError
from cxr_core.home import only_mine
from cxr_core.log import room_log
from cxr_core.runs.files import remove, sha256_file, sha256_text
from cxr_core.runs.provenance import code

log = room_log(__name__)

_STDERR = 2

_WHEELS = "/mnt"
"""Where a folder of wheels is seen during the build: apptainer binds only to a place that the base has."""


@dataclass(frozen=True)
class Recipe:
    """What an image is built from. Nothing here has a default that names a host.

    `base` is a folder with a Linux system or the reference of an image; `build_base` likewise, with a compiler, where
    one is needed. `find_links` and `binds` are seen during the build; `index` is a package index.
    """

    target: Target
    base: str
    build_base: str = ""
    index: str = ""
    find_links: str = ""
    binds: Sequence[Path] = ()

    def arguments(self) -> dict[str, str]:
        """The build arguments that cxr.def and the Dockerfile share. Raises UserError of a base that has no digest."""
        if self.build_base:
            digest_of(self.build_base)
        return {
            "BASE": self.base,
            "BUILD_BASE": self.build_base or self.base,
            "INDEX": self.index,
            "FIND_LINKS": _WHEELS if self._wheels else self.find_links,
            "VERSION": cxr_core.__version__,
            "GIT_SHA": code()["commit"] or "unknown",
            "SOURCE": origin(source()),
            "BASE_DIGEST": digest_of(self.base),
        }

    @property
    def _wheels(self) -> Path | None:
        """`find_links` where it is a folder."""
        folder = Path(self.find_links).absolute()
        return folder if self.find_links and folder.is_dir() else None

    def volumes(self) -> list[str]:
        """What the build sees, as both engines spell it."""
        wheels = [f"{self._wheels}:{_WHEELS}:ro"] if self._wheels else []
        return [*wheels, *(f"{path}:{path}:ro" for path in self.binds)]


def source() -> Path:
    """The checkout. Raises UserError where this package was installed from a wheel."""
    folder = Path(cxr_core.__file__).absolute().parents[1]
    if not (folder / "pyproject.toml").is_file():
        raise UserError("images are built from a checkout, and this is an installed package", where=str(folder))
    return folder


def digest_of(base: str) -> str:
    """What an image is built on, by its content: the digest of a reference, or of all that lies in a folder.

    Raises UserError of a tag, and of a folder that others can change.
    """
    if not Path(base).is_dir():
        return f"sha256:{Reference.parse(base).digest}"
    if not only_mine(Path(base)):
        hint = "make it, and the folders above, writable by you or root alone"
        raise UserError("others can change this base", where=base, hint=hint)
    return f"sha256:{tree_sha256(Path(base))}"


def tree_sha256(folder: Path) -> str:
    """Digest of a whole system: sha256 over its paths in order, each with its kind and rights and what it holds."""
    lines = []
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            holds = str(path.readlink())
        else:
            # What this user may not read, such as a list of passwords, is not in the image either.
            is_read = stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK)
            holds = sha256_file(path) if is_read else ""
        lines.append(f"{path.relative_to(folder)}\0{found.st_mode:o}\0{holds}")
    return sha256_text("\0\0".join(lines))


def origin(checkout: Path) -> str:
    """Where a checkout was cloned from, without a name or password in it; "unknown" of one that was not cloned."""
    if shutil.which("git") is None:
        return "unknown"
    words = ["git", "-C", str(checkout), "remote", "get-url", "origin"]
    url = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return re.sub(r"(?<=://)[^/@]*@", "", url) or "unknown"


def build_sif(recipe: Recipe, store: Store) -> Image:
    """Build a SIF with apptainer, test it, and put it into the store. Raises UserError if the build fails."""
    is_folder = Path(recipe.base).is_dir()
    arguments = recipe.arguments() | {"TARGET": recipe.target, "BOOTSTRAP": "localimage" if is_folder else "docker"}
    made = store.work(f"build-{os.getpid()}") / "image.sif"
    made.parent.mkdir(parents=True)
    binds = [word for volume in recipe.volumes() for word in ("--bind", volume)]
    words = [engine(), "build", "--fakeroot", "--mksquashfs-args", SQUASHFS, *binds, *_build_args(arguments)]
    try:
        _run([*words, str(made), "containers/cxr.def"], recipe)
        return store.add(made)
    finally:
        remove(made.parent)


def build_oci(recipe: Recipe) -> str:
    """Build an image with buildah and return its name. Raises UserError if the build fails."""
    name = f"localhost/cxr-suite:{cxr_core.__version__}-{recipe.target}"
    binds = [word for volume in recipe.volumes() for word in ("--volume", volume)]
    words = ["buildah", "bud", "--isolation", "chroot", "--file", "containers/Dockerfile", "--target", recipe.target]
    _run([*words, *binds, *_build_args(recipe.arguments()), "--tag", name, "."], recipe)
    return name


def _build_args(arguments: Mapping[str, str]) -> list[str]:
    return [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]


def _run(words: Sequence[str], recipe: Recipe) -> None:
    folder = source()
    lock = lock_path(folder, recipe.target)
    if not lock.is_file():
        raise UserError("there is no lock file", where=str(lock), hint=f"cxr image lock --target {recipe.target}")
    log.debug("%s of target %s in %s", " ".join(words[:2]), recipe.target, folder)  # arguments may hold a password
    try:
        # What the engine tells is no output of ours: that is the image's name alone.
        done = subprocess.run(words, cwd=folder, check=False, stdout=_STDERR)
    except FileNotFoundError:
        raise UserError(f"there is no {words[0]} on this machine", hint="load its module, or install it") from None
    if done.returncode != 0:
        raise UserError(
            "the image was not built: see above", where=words[0], hint="is BASE complete, and is the index in reach?"
        )
