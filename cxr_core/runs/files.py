"""Files that are either whole or not there: write aside, fsync, rename; and digests of files and folders."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cxr_core.runs import door

_BLOCK = 1 << 20


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN. What digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read back from the file system."""
    with door.open_regular(path) as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """sha256 of an open file, from where it stands."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def walk_files(folder: Path) -> list[Path]:
    """All plain files below `folder`, in the order of their relative names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256_path(path: Path) -> str:
    """Of a file: its sha256. Of a folder: sha256 over the sorted lines `relative name, NUL, sha256 of the file`."""
    if path.is_file():
        return sha256_file(path)
    lines = (f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n" for file in walk_files(path))
    return sha256_text("".join(lines))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in walk_files(path))


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


fsync_dir = fsync_file


def fsync_tree(path: Path) -> None:
    """Make a file, or a folder with all that is in it, survive a power cut."""
    if path.is_dir():
        for entry in path.rglob("*"):
            fsync_file(entry)
    fsync_file(path)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` under a temporary name, fsync, rename: readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it becomes `path` (a file or a new folder)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        fsync_tree(temporary)
        temporary.rename(path)
        fsync_dir(path.parent)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder; what is already gone is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The JSON value of a file that a stage wrote itself or that the user named. Raises OSError or BadFileError."""
    return door.read_json(path, Any)


def json_text(value: Any) -> str:
    """Pretty JSON for people."""
    return json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Pretty JSON for people, written atomically."""
    write_atomic(path, json_text(value))
