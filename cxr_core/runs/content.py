"""Size and sha256 of what lies in a run, a file or a folder, as `files` computes them, and without following a link."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from cxr_core.runs.door import BadFileError, Place
from cxr_core.runs.files import sha256_text

_DEEPEST = 32
"""Folders in one another; data of ours have three."""


def size_in(place: Place, name: str) -> int:
    """Bytes of a file, or of all files of a folder. Raises BadFileError if another thing is among them."""
    return sum(_size(folder, file) for folder, file in _files(place, name))


def sha256_in(place: Place, name: str) -> str:
    """As `files.sha256_path`. Raises BadFileError if there is a link, a pipe or a device."""
    if not _is_folder(place, name):
        return _sha256(place, name)
    inside = len(place.parts) + 1
    return _of_folder({_parts(folder, file)[inside:]: _sha256(folder, file) for folder, file in _files(place, name)})


def _parts(folder: Place, file: str) -> tuple[str, ...]:
    return (*folder.parts, file)


def _of_folder(digests: Mapping[tuple[str, ...], str]) -> str:
    """By the path and the sha256 of each file."""
    return sha256_text("".join(f"{'/'.join(path)}\0{sha256}\n" for path, sha256 in sorted(digests.items())))


def settle(place: Place, name: str) -> tuple[int, str]:
    """Let a file, or a folder with all that is in it, survive a power cut and have the rights that this process's umask
    leaves: some libraries write files for their user alone, which a group that shares a run could not read.

    Returns its bytes and sha256, as `size_in` and `sha256_in`, and raises as they do. Each file is opened once.
    """
    mask = _umask()
    if not _is_folder(place, name):
        return _settle_file(place, name, 0o666 & ~mask)
    found = {_parts(folder, file): _settle_file(folder, file, 0o666 & ~mask) for folder, file in _files(place, name)}
    with place.handle() as here:
        for _, _, _, folder in os.fwalk(name, dir_fd=here):
            os.fchmod(folder, os.fstat(folder).st_mode & stat.S_ISGID | 0o777 & ~mask)
            os.fsync(folder)
    inside = len(place.parts) + 1
    digests = {parts[inside:]: sha256 for parts, (_, sha256) in found.items()}
    return sum(size for size, _ in found.values()), _of_folder(digests)


def _settle_file(place: Place, name: str, mode: int) -> tuple[int, str]:
    with place.open(name) as file:
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, _sha256_of(file)


def _umask() -> int:
    """To ask the system itself, one has to change it."""
    with Path("/proc/self/status").open("rb") as status:
        return int(status.read().partition(b"\nUmask:")[2].split(maxsplit=1)[0], 8)


def weight(place: Place, name: str) -> int:
    """Bytes that removing it frees, whatever it is; as far as can be seen."""
    total = 0
    with suppress(OSError, RecursionError), place.handle() as here:
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size
        for _, _, names, folder in os.fwalk(name, dir_fd=here):
            total += sum(os.stat(each, dir_fd=folder, follow_symlinks=False).st_size for each in names)
    return total


def _files(place: Place, name: str) -> Iterator[tuple[Place, str]]:
    """The files of a file or a folder, each with the folder in which it lies."""
    if not _is_folder(place, name):
        yield place, name
        return
    inside = place / name
    if len(inside.parts) > _DEEPEST:
        raise BadFileError(f"more than {_DEEPEST} folders in one another", inside.path)
    for entry in inside.entries():
        yield from _files(inside, entry.name)


def _is_folder(place: Place, name: str) -> bool:
    found = place.stat(name)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _size(place: Place, name: str) -> int:
    with place.open(name) as file:
        return os.fstat(file.fileno()).st_size


def _sha256(place: Place, name: str) -> str:
    with place.open(name) as file:
        return _sha256_of(file)


def _sha256_of(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
