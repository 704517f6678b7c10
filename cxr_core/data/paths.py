"""Paths of any bytes as text that every file format holds, and files read as regular files only."""

import errno
import os
import stat
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_SCHEME = "file:"


def spelled(path: str) -> str:
    """A path as text: itself, or a file: URI (RFC 8089) where it is not UTF-8 or holds control characters.

    Of the URI only these and `%` are escaped, so that the names of its other parts stay as they are.
    """
    if path.isprintable():
        return path
    return _SCHEME + "".join(map(_escaped, path))


def _escaped(char: str) -> str:
    return char if char.isprintable() and char != "%" else quote_from_bytes(os.fsencode(char))


def unspelled(text: str) -> str:
    """The path that `spelled` wrote, as the functions of `os` take it."""
    return os.fsdecode(unquote_to_bytes(text[len(_SCHEME) :])) if text.startswith(_SCHEME) else text


def path_of(text: str) -> Path:
    """The path that `spelled` wrote."""
    return Path(unspelled(text))


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
    with open(path, "rb", opener=_open_regular) as file:
        return file.read() if os.fstat(file.fileno()).st_size <= most else None


def read_start(path: Path, num_bytes: int) -> bytes:
    """At most the first bytes of a regular file. Raises OSError, as `read_regular`."""
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        return file.read(num_bytes) or b""


def _open_regular(path: str, flags: int) -> int:
    try:
        handle = os.open(path, flags | os.O_NONBLOCK)
    except BlockingIOError:
        # A file server holds a lease on it, which it gives back when somebody waits. Only regular files have leases.
        handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, "Is a directory" if code == errno.EISDIR else "no regular file", path)
