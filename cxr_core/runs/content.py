"""Size and sha256 of what lies in a run, a file or a folder, as `files` computes them, and without following a link."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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
    depth = len(place.parts) + 1
    found = sorted((*folder.parts[depth:], file) for folder, file in _files(place, name))
    inside = place / name
    lines = (
        f"{'/'.join(path)}\0{_sha256(Place(inside.root, (*inside.parts, *path[:-1])), path[-1])}\n" for path in found
    )
    return sha256_text("".join(lines))


def give_rights(place: Place, name: str) -> None:
    """Let a file, or a folder with all that is in it, have the rights that this process's umask leaves: some libraries
    write files for their user alone, which a group that shares a run could not read."""
    mask = _umask()
    with place.handle() as here:
        if not _is_folder(place, name):
            _give(name, here, 0o666 & ~mask)
            return
        for _, _, names, folder in os.fwalk(name, dir_fd=here):
            os.fchmod(folder, os.fstat(folder).st_mode & stat.S_ISGID | 0o777 & ~mask)
            for each in names:
                _give(each, folder, 0o666 & ~mask)


def _give(name: str, folder: int, mode: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """To ask the system itself, one has to change it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)


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
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
