"""A new folder that appears complete or not at all, and that a killed process goes on to fill where it was."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json

_MARK = "export.json"


@contextmanager
def new_folder(out: Path, what: Mapping[str, str]) -> Iterator[Path]:
    """The unfinished folder, perhaps with files that the same work left when it was killed; `out` at the block's end.

    `what` says what it is to hold. Raises UserError where `out` exists, or where other work was begun in its place.
    """
    if out.exists():
        raise UserError("the folder to export to is there already", where=str(out), mend="name a new one")
    part = out.with_name(f".{out.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    mark = part / _MARK
    if not mark.exists():
        write_json(mark, what)
    elif read_json(mark) != what:
        raise UserError(
            "the export of another Dataset was begun here", where=str(part), mend="remove it, and try again"
        )
    yield part
    mark.unlink()
    # Once for all: a sync of each of a hundred thousand files takes an hour.
    os.sync()
    part.rename(out)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole; one of the same size that is there stays."""
    if path.exists() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")  # no longer a name than the file's own
    temporary.write_bytes(content)
    temporary.rename(path)
