"""A new folder that appears complete or not at all, and that a killed process goes on to fill where it was."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.door import BadFileError, Place
from cxr_core.runs.files import remove, write_json

_MARK = "export.json"
_CONTENT = "content"


@contextmanager
def new_folder(out: Path, what: Mapping[str, str]) -> Iterator[Path]:
    """The unfinished folder, perhaps with files that the same work left when it was killed; `out` at the block's end.

    Until then it lies in a folder that is this user's alone: nobody else can have put anything there. `what` says what
    it is to hold. Raises UserError where `out` exists, or where other work was begun in its place.
    """
    if os.path.lexists(out):
        raise UserError("the folder to export to is there already", where=str(out), hint="name a new one")
    private = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not _is_begun(private, what):
        private.mkdir(mode=0o700)
        write_json(private / _MARK, what)
    part = private / _CONTENT
    part.mkdir(exist_ok=True)
    yield part
    # Once for all: a sync of each of a hundred thousand files takes an hour.
    os.sync()
    part.rename(out)
    remove(private)


def _is_begun(private: Path, what: Mapping[str, str]) -> bool:
    """Whether this user's same work was begun there. What is not whole, or others could write in, is removed."""
    try:
        found = private.lstat()
    except FileNotFoundError:
        return False
    if found.st_uid != os.geteuid():
        raise UserError("belongs to somebody else", where=str(private), hint="export to another folder")
    if stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077:
        try:
            if Place(private).json(_MARK, dict[str, str]) == what:
                return True
            raise UserError(
                "the export of another Dataset was begun here", where=str(private), hint="remove it, and try again"
            )
        except (FileNotFoundError, BadFileError):
            pass  # killed before it was whole
    remove(private)
    return False


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole; one of the same content that is there stays."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")  # no longer a name than the file's own
    temporary.write_bytes(content)
    temporary.rename(path)
