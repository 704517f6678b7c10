"""Paths of any bytes as text that every file format holds, and files read as regular files only."""

import os
import stat
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_SCHEME = "file://"


def spelled(path: str) -> str:
    """A path as text: itself, or a file: URI (RFC 8089) where it is not UTF-8 or holds control characters."""
    return path if path.isprintable() else _SCHEME + quote_from_bytes(os.fsencode(path))


def path_of(text: str) -> Path:
    """The path that `spelled` wrote."""
    return Path(os.fsdecode(unquote_to_bytes(text[len(_SCHEME) :])) if text.startswith(_SCHEME) else text)


def printable(text: str) -> str:
    """Any text on one line of UTF-8: bytes that are no text, control characters and line ends as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else char.encode("unicode_escape").decode()


def read_regular(path: Path, most: int) -> bytes | None:
    """The bytes of a regular file, or None where it has more than `most`.

    Raises OSError, also for a pipe or a device, which might never end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 - a path would be opened, and a pipe waited for
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        if not stat.S_ISREG(about.st_mode):
            raise OSError(22, "no regular file", str(path))
        return file.read() if about.st_size <= most else None
