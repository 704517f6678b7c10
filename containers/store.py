"""A folder of images that the nodes see: each under its own sha256, and a lock for each that came from a registry."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from containers.reference import Reference
from cxr_core.errors import UserError
from cxr_core.home import expanded, home, only_mine
from cxr_core.runs.door import Place
from cxr_core.runs.files import (
    fsync_dir,
    fsync_file,
    read_json,
    remove,
    sha256_file,
    sha256_path,
    size_of,
    write_atomic,
    write_json,
)
from cxr_core.runs.locks import hold, open_lock

FORMAT = 1

TOLD_EVERY = 10.0
"""Seconds between two lines about how far something is."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """A SIF, or a folder that was unpacked from one; what it holds is named by its sha256."""

    path: Path
    sha256: str
    bytes: int

    @classmethod
    def at(cls, path: Path) -> "Image":
        """The image at `path`: what its name says in a store, else its hash. Raises UserError if there is none."""
        if not path.exists():
            raise UserError("no such image", where=str(path), hint="`cxr image list` shows what there is")
        if path.parent.name == "sif" and re.fullmatch(r"[0-9a-f]{64}\.sif", path.name):
            return cls(path, path.stem, path.stat().st_size)
        return cls(path, sha256_path(path), size_of(path))

    def is_sound(self) -> bool:
        """Whether its bytes are still those that its sha256 says. Reads all of them."""
        return size_of(self.path) == self.bytes and sha256_path(self.path) == self.sha256


@dataclass(frozen=True)
class ImageLock:
    """image.lock: which SIF was made of an image of a registry. A second conversion may differ by its times."""

    reference: str
    sif_sha256: str
    bytes: int
    architecture: str
    engine: str
    time: str
    format: int = FORMAT

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "ImageLock":
        """Raises UserError if the file is damaged."""
        try:
            return cls(**read_json(path))
        except (ValueError, TypeError) as error:
            raise UserError(f"damaged ({error})", where=str(path), hint="remove it and pull again") from error


@dataclass(frozen=True)
class Store:
    """`sif/<sha256>.sif` and `oci/<digest>/image.lock` below `root`; `work/` is what pulls and builds have half-made.

    The time of a SIF is when it was last used.
    """

    root: Path

    @classmethod
    def of_environment(cls, given: Path | None = None) -> "Store":
        """The folder given, or CXR_IMAGES. There is no default: it must be seen by the nodes, and home is small."""
        folder = given or (Path(os.environ["CXR_IMAGES"]) if os.environ.get("CXR_IMAGES") else None)
        if folder is None:
            raise UserError(
                "where images lie is not known", hint="export CXR_IMAGES=/a/folder/that/all/nodes/see, or give --images"
            )
        return cls(expanded(folder).absolute())

    def sif(self, sha256: str) -> Path:
        return self.root / "sif" / f"{sha256}.sif"

    def lock_path(self, reference: Reference) -> Path:
        return self.root / "oci" / reference.digest / "image.lock"

    def work(self, name: str) -> Path:
        return self.root / "work" / name

    def images(self) -> list[Image]:
        """Every SIF, the last used first; none is opened."""
        paths = sorted((self.root / "sif").glob("*.sif"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [Image(path, path.stem, path.stat().st_size) for path in paths]

    def locks(self) -> list[ImageLock]:
        return [ImageLock.read(path) for path in sorted((self.root / "oci").glob("*/image.lock"))]

    def pulled(self, reference: Reference) -> Image | None:
        """What a pull of this reference left here, as recorded; its bytes are not read."""
        path = self.lock_path(reference)
        if not path.exists():
            return None
        lock = ImageLock.read(path)
        sif = self.sif(lock.sif_sha256)
        return Image(sif, lock.sif_sha256, lock.bytes) if sif.exists() else None

    def add(self, made: Path) -> Image:
        """Move a finished SIF into the store, under its sha256, read-only."""
        sha256 = sha256_file(made)
        path = self.sif(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.chmod(0o444)
        fsync_file(made)
        made.rename(path)
        fsync_dir(path.parent)
        return Image(path, sha256, path.stat().st_size)

    def find(self, text: str) -> Image:
        """The image that a reference or the beginning of a sha256 names. Raises UserError if there is none."""
        if re.fullmatch(r"[0-9a-f]{8,64}", text):
            images = [image for image in self.images() if image.sha256.startswith(text)]
        else:
            reference = Reference.parse(text)
            images = [image for image in [self.pulled(reference)] if image is not None]
        if len(images) != 1:
            hint = f"`cxr image pull {text}` brings it" if "@" in text else "`cxr image list` shows what there is"
            raise UserError("no such image, or several", where=f"{text} in {self.root}", hint=hint)
        return images[0]

    def unused(self, *, days: float) -> list[Image]:
        """Images that nobody has used for `days` and that nobody uses now."""
        before = time.time() - days * 86400
        return [image for image in self.images() if image.path.stat().st_mtime <= before and not _in_use(image.path)]

    def remove(self, image: Image) -> bool:
        """Remove an image unless it is in use; its image.lock stays, and pulling makes it again."""
        used = _in_use(image.path)
        if not used:
            remove(image.path)
        return not used


def find_image(text: str, images: Path | None = None) -> Image:
    """The image at a path, else what the store (CXR_IMAGES by default) has under that name.

    Raises UserError if there is none, or if its bytes are not what its name says.
    """
    path = expanded(text).absolute()
    image = Image.at(path) if path.exists() else Store.of_environment(images).find(text)
    if image.path.stem == image.sha256 and not is_image(image.path, image.sha256):
        hint = "`cxr image pull` with the reference (see `cxr image list`) replaces it"
        raise UserError(
            "is not what its name says (sha256): damaged, or another image", where=str(image.path), hint=hint
        )
    return image


def is_image(path: Path, sha256: str) -> bool:
    """Whether a file has this digest. A file that is this user's alone is read once: what was read is remembered, in
    the words of trust.sh, as long as nobody has written to it."""
    record = (Path(os.environ.get("XDG_CACHE_HOME") or (home() or Path("/nowhere")) / ".cache") / "cxr-images") / sha256
    words = f"{sha256} {_identity(path)}\n"
    is_remembered = only_mine(path) and _made_private(record.parent)
    if is_remembered and record.is_file() and record.read_bytes() == words.encode():
        return True
    if sha256_file(path) != sha256:
        return False
    if is_remembered and words == f"{sha256} {_identity(path)}\n":
        write_atomic(record, words)
    return True


def _identity(path: Path) -> str:
    found = path.stat()
    times = (f"{time // 10**9}.{time % 10**9:09d}" for time in (found.st_mtime_ns, found.st_ctime_ns))
    return f"{found.st_ino} {found.st_size} {' '.join(times)}"


def _made_private(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return only_mine(folder)


def _in_use(path: Path) -> bool:
    """Whether a process holds a shared lock on the file, as `stage.sh` does; it ends with the process."""
    # A network file system gives an exclusive lock only to who may write.
    path.chmod(0o644)
    try:
        with path.open("r+b") as file:
            return not hold(file.fileno())
    finally:
        path.chmod(0o444)


@contextmanager
def alone(path: Path, *, tell: Tell, busy: Callable[[], str]) -> Iterator[None]:
    """Hold the lock file at `path`; while another process does, say now and then what it is `busy` with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_lock(Place(path.parent), path.name) as lock:
        told = time.monotonic()
        while not hold(lock):
            if time.monotonic() - told >= TOLD_EVERY:
                told = time.monotonic()
                tell(busy())
            time.sleep(0.2)
        yield
