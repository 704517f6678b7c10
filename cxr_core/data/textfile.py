"""Text files of people: in UTF-8 or as spreadsheets write them, also compressed; anything else is refused in words."""

import gzip
import io
import zlib
from pathlib import Path

from cxr_core.data.paths import read_regular
from cxr_core.errors import UserError

MAX_BYTES = 2 << 30
"""Of a text, unpacked: the largest published table of radiographs has a fortieth."""

_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_OTHERS = {
    b"PK\x03\x04": ("an Excel workbook or a zip archive", "save the table as a CSV, or unpack the archive"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the table as a CSV"),
    b"BZh": ("compressed by bzip2", "unpack it: bunzip2"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it: unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it: unzstd"),
    b"<": ("a web page or XML", "get the file again: it may be the page that asks to log in"),
    b"PAR1": ("a Parquet table", "save it as a CSV: pandas.read_parquet(...).to_csv(..., index=False)"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without its mark, or in UTF-16 with its mark; gzip is unpacked.

    Raises UserError where it is missing, not readable, no such text, holds a byte of zero, or is over `MAX_BYTES`.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        data = _unpacked(data) if data and data.startswith(_GZIP) else data
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=str(path), hint="check the path in the config") from error
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read ({said})", where=str(path), hint="get or unpack the file again") from error
    if data is None:
        raise UserError(f"more than {MAX_BYTES >> 30} GiB of text", where=str(path), hint="name the table itself")
    for magic, (what, hint) in _OTHERS.items():
        if data.startswith(magic):
            raise UserError(f"not a readable CSV or list: it is {what}", where=str(path), hint=hint)
    return _decoded(data, path)


def _unpacked(data: bytes) -> bytes | None:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        text = file.read(MAX_BYTES + 1)
    return text if len(text) <= MAX_BYTES else None


def _decoded(data: bytes, path: Path) -> str:
    encoding, name = ("utf-16", "UTF-16") if data.startswith(_UTF16) else ("utf-8-sig", "UTF-8")
    if name == "UTF-8" and b"\0" in data:
        row = _row(data[: data.index(b"\0")].decode("latin-1"))
        what = "a byte of zero, as UTF-16 without its mark and damaged files have"
        raise _no_text(path, row, what, "save it in UTF-8; from UTF-16: iconv -f utf-16le -t utf-8 OLD > NEW")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        given = error.object
        near = given[max(0, error.start - 8) : error.start + 8].decode("latin-1")
        row = _row(given[: error.start].decode(encoding, "ignore"))
        hint = "save it in UTF-8; from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW"
        hint = hint if name == "UTF-8" else "copy the file again, or save it in UTF-8"
        raise _no_text(path, row, f"byte {given[error.start]:#04x} is no {name}: ...{near!r}...", hint) from error


def _row(before: str) -> int:
    """The line that comes after these characters; line ends are those of a CSV."""
    return len(list(io.StringIO(f"{before}.", newline="")))


def _no_text(path: Path, row: int, what: str, hint: str) -> UserError:
    return UserError(f"not a readable CSV or list ({what})", where=f"{path}, row {row}", hint=hint)
