"""A folder that only its user can enter, such as the one in which ranks meet: mode 0700, and its owner is checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from cxr_core.runs.door import BadFileError, Place

_HINT = "Another user of this machine or of your group may have put it there: remove it, then run again"


@dataclass(frozen=True)
class PrivatePlace(Place):
    """A `Place` of the user of this process alone. Raises BadFileError wherever it is another's, or open to others.

    Within a folder of a group, others may put things into it before its mode is changed, so files are looked at too:
    what is not this user's does not count as there, and is not opened.
    """

    @classmethod
    def at(cls, path: Path) -> Self:
        """The folder of this path; it need not be there."""
        return cls(path.parent, (path.name,))

    def make(self) -> Self:
        """Make the folder (those above it are there), or close one of this user's to all others, and remove what they
        put into it before."""
        with Place(self.root, self.parts[:-1]).handle() as above, suppress(FileExistsError):
            os.mkdir(self.parts[-1], 0o700, dir_fd=above)
        with super().handle() as here:
            self._refuse_another(os.fstat(here))
            os.fchmod(here, 0o700)
        for entry in self.entries():
            if not self.has(entry.name):
                self.remove(entry.name)
        return self

    @contextmanager
    def handle(self) -> Iterator[int]:
        with super().handle() as here:
            about = os.fstat(here)
            self._refuse_another(about)
            if about.st_mode & 0o077:
                raise BadFileError(f"open to other users (mode {about.st_mode & 0o777:o})", self.path, _HINT)
            yield here

    def stat(self, name: str) -> os.stat_result | None:
        about = super().stat(name)
        return about if about and about.st_uid == os.geteuid() else None

    def open(self, name: str) -> BinaryIO:
        file = super().open(name)
        about = os.fstat(file.fileno())
        if about.st_uid != os.geteuid() or about.st_nlink > 1:
            file.close()
            raise BadFileError("a file of another user, or known by a second name", self.path / name, _HINT)
        return file

    def _refuse_another(self, about: os.stat_result) -> None:
        if about.st_uid != os.geteuid():
            raise BadFileError(f"a folder of user {about.st_uid}, not of {os.geteuid()}", self.path, _HINT)
