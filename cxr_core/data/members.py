"""What lies in a tar shard by its headers. Nothing is ever extracted: images are read from where the index says."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

_LONGEST_HEADER = 1 << 20
"""Bytes of a pax header, which holds a name; tarfile would read what a false one says."""
_MOST_MEMBERS = 1 << 20


def odd_members(file: BinaryIO, *, is_whole: bool) -> Iterator[str]:
    """A line for each member that no Dataset has: outside of a folder, no plain file, or a name a second time.

    That it is cut off or damaged is a line too if it `is_whole` by its digest, else somebody has said so.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                if fault := _fault(member, seen):
                    yield f"member {member.name[:80]!r} {fault}"
                tar.members.clear()  # it remembers them all
                if len(seen) > _MOST_MEMBERS:
                    yield f"more than {_MOST_MEMBERS:,} members"
                    return
    except (tarfile.TarError, ValueError, OverflowError, OSError, RecursionError) as error:
        if is_whole:
            yield f"not a readable tar ({str(error)[:200]})"


def _fault(member: tarfile.TarInfo, seen: set[str]) -> str:
    path = PurePosixPath(member.name)
    again = member.name in seen
    seen.add(member.name)
    if path.is_absolute() or ".." in path.parts or not member.name.isprintable():
        return "leads out of the tar or is no plain name"
    if not member.isreg() or member.issparse():
        return "is a link, a device or another thing than a file"
    return "stands twice" if again else ""


class _Bounded:
    """A file of which no more than a header is read at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.name = ""

    def read(self, num_bytes: int = -1) -> bytes:
        if not 0 <= num_bytes <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {num_bytes} bytes")
        return self._file.read(num_bytes)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()
