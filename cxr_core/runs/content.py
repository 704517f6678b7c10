"""Size and sha256 of what lies in a run, a file or a folder, as `files` computes them, and without following a link."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

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
