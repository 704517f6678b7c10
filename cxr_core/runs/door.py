"""The one door to what lies in a folder that somebody else may have written: a run, a Dataset, a checkpoint.

A `Place` is such a folder, held by its handle. What is below it is reached name by name without following a link, so
that nothing outside of it is ever read, moved or removed, whoever changes the folder meanwhile. What is read is a
regular file (never a pipe or a device, which would wait or never end), of bounded size, and becomes typed values;
else `BadFileError` names it, and a command goes on with the other files.
"""

import errno
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from pydantic import AfterValidator, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import get_original_bases

from cxr_core.errors import UserError
from cxr_core.shown import printable as printable

T = TypeVar("T")

MIB = 1 << 20
RECORD_LIMIT = 64 * MIB
"""Bytes that one record (JSON, YAML) may have; the plan of 10^7 images has 5 MiB."""
LONGEST_NAME = 240
"""Bytes of a name: a file system takes 255, and a temporary name is longer than its final one."""

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""What a record's class says as `__pydantic_config__`: no further keys, and no NaN where a number stands."""

_HINT = "It was damaged, or made by somebody else. `cxr verify RUN` lists all such files; `--repair` sets them aside"


class BadFileError(UserError):
    """A file that is not what it must be. `path` names it; it is left where it is."""

    def __init__(self, what: str, path: Path, hint: str = _HINT) -> None:
        self.path = path
        super().__init__(printable(what), where=printable(str(path)), hint=hint)


class BadFiles(list[BadFileError]):
    """The files of a folder that are not what they must be, found while the others were read."""

    def __init__(self) -> None:
        super().__init__()
        self._paths: set[Path] = set()

    def read(self, read: Callable[[], T], instead: Any) -> T:
        """What `read` returns; `instead` where it meets a bad file, which is listed once."""
        try:
            return read()
        except BadFileError as error:
            self.note(error)
        except OSError as error:
            self.note(BadFileError(f"cannot be read: {error.strerror}", Path(str(error.filename or ""))))
        return instead

    def note(self, error: BadFileError) -> None:
        """List a bad file, if it is not listed yet."""
        if error.path not in self._paths:
            self._paths.add(error.path)
            self.append(error)


def checked_name(text: str) -> str:
    """`text`, if it can name one thing within a folder. Raises ValueError if it is empty or too long, begins with a
    dot, or holds a slash or a character that is not printable."""
    if not text or text[0] == "." or "/" in text or not text.isprintable():
        raise ValueError(f"not a name of a file: {text[:80]!r}")
    if len(os.fsencode(text)) > LONGEST_NAME:
        raise ValueError(f"a name of more than {LONGEST_NAME} bytes: {text[:80]!r}...")
    return text


Name = Annotated[str, AfterValidator(checked_name)]
"""Of a file, a shard, an attempt, a stage: one component of a path."""


def checked_inside(text: str) -> str:
    """`text`, if each part of this path is a `Name`. Raises ValueError if it is absolute, or leads out or nowhere."""
    parts = text.split("/")
    if len(parts) > _DEEPEST:
        raise ValueError(f"a path of more than {_DEEPEST} parts: {text[:80]!r}...")
    return "/".join(map(checked_name, parts))


_DEEPEST = 8

Inside = Annotated[str, AfterValidator(checked_inside)]
"""Path of a file below a place: `Name`s with slashes between them."""


@dataclass(frozen=True)
class FolderEntry:
    """What a listing says of one name, itself and not what it may link to."""

    name: str
    is_file: bool
    is_folder: bool


@dataclass(frozen=True)
class Place:
    """A folder: `root`, which the user named and which may be a link, and below it `parts`, which may not."""

    root: Path
    parts: tuple[str, ...] = ()
    descriptor: int | None = None
    """Of the folder, while it is `held`."""

    def __truediv__(self, name: str) -> "Place":
        """The folder `name` in it; it need not be there."""
        return Place(self.root, (*self.parts, _one(name)))

    def within(self, path: str) -> "tuple[Place, str]":
        """The folder of a file below, and the file's name. Raises BadFileError if `path` is none (see `Inside`)."""
        try:
            *above, name = checked_inside(path).split("/")
        except ValueError as error:
            raise BadFileError(str(error), self.path) from error
        return Place(self.root, (*self.parts, *above)), name

    @property
    def path(self) -> Path:
        """For messages, and for what is only written by this process."""
        return self.root.joinpath(*self.parts)

    @contextmanager
    def handle(self) -> Iterator[int]:
        """A descriptor of the folder. Raises FileNotFoundError, or BadFileError if a part of the way is no folder."""
        if self.descriptor is not None:
            yield self.descriptor
            return
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for i, part in enumerate(self.parts):
                below = self._step(descriptor, part, i + 1)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def held(self) -> Iterator["Place"]:
        """The same folder, opened once for all that is done to it meanwhile."""
        with self.handle() as here:
            yield Place(self.root, self.parts, here)

    def _step(self, above: int, part: str, depth: int) -> int:
        try:
            return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            path = self.root.joinpath(*self.parts[:depth])
            raise BadFileError("a link or another thing where a folder must be", path) from error

    def make(self) -> "Place":
        """Make the folder and those above it below `root`, where they are not there yet."""
        with suppress(FileNotFoundError), self.handle():
            return self
        for depth in range(1, len(self.parts) + 1):
            with Place(self.root, self.parts[: depth - 1]).handle() as above, suppress(FileExistsError):
                os.mkdir(self.parts[depth - 1], dir_fd=above)
        with self.handle():
            return self

    def entries(self) -> list[FolderEntry]:
        """What lies in it, by name; nothing if it is not there. One listing, no file is opened."""
        try:
            with self.handle() as here, os.scandir(here) as found:
                entries = [
                    FolderEntry(e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False))
                    for e in found
                ]
        except FileNotFoundError:
            return []
        return sorted(entries, key=lambda entry: entry.name)

    def has(self, name: str) -> bool:
        """Whether there is anything by this name, a dangling link included."""
        return self.stat(name) is not None

    def stat(self, name: str) -> os.stat_result | None:
        """Of the thing itself; None if there is none."""
        try:
            with self.handle() as here:
                return os.stat(_one(name), dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_file(self, name: str) -> bool:
        """Whether there is a regular file by this name, and no link to one."""
        found = self.stat(name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def open(self, name: str) -> BinaryIO:
        """A regular file, to be read. Raises FileNotFoundError, or BadFileError if it is another thing."""
        with self.handle() as here:
            return _open_regular(_one(name), lambda: self.path / name, os.O_NOFOLLOW, here)

    def read(self, name: str, *, limit: int = RECORD_LIMIT) -> bytes:
        """All of a regular file. Raises FileNotFoundError, or BadFileError if it is another thing or over `limit`."""
        with self.open(name) as file:
            return _bounded(file, lambda: self.path / name, limit)

    def first_line(self, name: str, *, limit: int = RECORD_LIMIT) -> bytes:
        """The first line of a text, with its end if it has one. Raises as `read` does."""
        with self.open(name) as file:
            _refuse_over(limit, os.fstat(file.fileno()).st_size, lambda: self.path / name)
            return file.readline(limit)

    def tail(self, name: str, *, limit: int = RECORD_LIMIT) -> str:
        """The last `limit` bytes of a text, such as a log. Raises as `open` does."""
        with self.open(name) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - limit, 0))
            return file.read(limit).decode(errors="replace")

    def json(self, name: str, kind: type[T], *, limit: int = RECORD_LIMIT) -> T:
        """A file's one JSON value as `kind`. Raises FileNotFoundError or BadFileError, as `read` does."""
        return _parsed(self.read(name, limit=limit), kind, lambda: self.path / name)

    def lines(self, name: str, kind: type[T], *, limit: int = RECORD_LIMIT) -> list[T]:
        """A JSON value a line, each as `kind`. Raises FileNotFoundError or BadFileError, which names the line."""
        return parse_lines(self.read(name, limit=limit).splitlines(), kind, self.path / name)

    def write(self, name: str, data: str | bytes, *, mode: int = 0o666, durable: bool = True) -> None:
        """A whole new file under this name, in place of what is there: written aside, flushed, renamed.

        Without `durable` it is not forced to the disk: for what is of use only while its writer lives.
        """
        temporary = f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        with self.handle() as here:
            try:
                with _create(temporary, here, mode) as file:
                    file.write(data.encode() if isinstance(data, str) else data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.rename(temporary, _one(name), src_dir_fd=here, dst_dir_fd=here)
                if durable:
                    os.fsync(here)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=here)
                raise

    def append(self, name: str, text: str) -> None:
        """Add to the end of a file, which is made if there is none. Raises BadFileError if it is another thing."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with self.handle() as here:
            try:
                descriptor = os.open(_one(name), flags, 0o666, dir_fd=here)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise BadFileError("another thing where a file must be", self.path / name) from error
                raise
            with os.fdopen(descriptor, "wb") as file:
                _refuse_another(os.fstat(file.fileno()).st_mode, lambda: self.path / name)
                file.write(text.encode())

    def create(self, name: str, *, mode: int = 0o666) -> BinaryIO:
        """A new file, to be written; `mode` less the umask. Raises FileExistsError if anything has this name."""
        with self.handle() as here:
            return _create(_one(name), here, mode)

    def remove(self, name: str) -> None:
        """Remove a file, a link (not what it leads to) or a folder; what is already gone is no error."""
        with suppress(FileNotFoundError), self.handle() as here:
            if stat.S_ISDIR(os.stat(_one(name), dir_fd=here, follow_symlinks=False).st_mode):
                try:
                    shutil.rmtree(name, ignore_errors=True, dir_fd=here)  # which follows no link either
                except RecursionError as error:
                    raise BadFileError("folders in folders, too deep to be removed", self.path / name) from error
            else:
                os.unlink(name, dir_fd=here)

    def move(self, name: str, to: "Place", new: str = "") -> bool:
        """Rename it into another place of the file system, which is made. Returns whether it was there."""
        if not self.has(name):
            return False
        to.make()
        with self.handle() as here, to.handle() as there:
            os.rename(_one(name), _one(new or name), src_dir_fd=here, dst_dir_fd=there)
        return True


def below(path: Path, depth: int) -> Place:
    """The folder at `path`, whose last `depth` names may not be links: 1 for a stage of a run, 3 for an attempt."""
    path = path if len(path.parts) > depth else path.absolute()
    return Place(path.parents[depth - 1], tuple(map(_one, path.parts[-depth:])))


def place_of(path: Path, root: Path) -> tuple[Place, str]:
    """The folder of a path below `root`, as it is reached from there, and the path's last name."""
    *above, name = path.relative_to(root).parts
    return Place(root, tuple(map(_one, above))), _one(name)


def open_regular(path: Path) -> BinaryIO:
    """A file that the user named, to be read; links are followed. Raises OSError if it is not there, or BadFileError
    if it is a pipe, a device or a folder."""
    return _open_regular(str(path), lambda: path, 0, None)


def read_bytes(path: Path, *, limit: int = RECORD_LIMIT) -> bytes:
    """All of a file that the user named. Raises as `open_regular` does, or BadFileError if it is over `limit` bytes."""
    with open_regular(path) as file:
        return _bounded(file, lambda: path, limit)


def read_json(path: Path, kind: type[T], *, limit: int = RECORD_LIMIT) -> T:
    """The JSON value of a file that the user named, as `kind`. Raises as `read_bytes` does, or BadFileError."""
    return parse(read_bytes(path, limit=limit), kind, path)


def parse(text: bytes, kind: type[T], path: Path, *, line: int = 0) -> T:
    """JSON as `kind`, strictly: "5" is no number. Raises BadFileError, which says which value is wrong."""
    return _parsed(text, kind, lambda: path, line)


def parse_lines(lines: Sequence[bytes], kind: type[T], path: Path, *, first: int = 1) -> list[T]:
    """A JSON value a line, each as `kind`; `first` is the number of the first line. Raises BadFileError."""
    with suppress(BadFileError):  # all at once, at a third of the time
        values = parse(b"[" + b",".join(lines) + b"]", list[kind], path)  # type: ignore[valid-type]
        if len(values) == len(lines):
            return values
    return [parse(line, kind, path, line=number) for number, line in enumerate(lines, first)]


_Where = Callable[[], Path]
"""The path for a message: to make one takes longer than to read a record."""


def _parsed(text: bytes, kind: type[T], where: _Where, line: int = 0) -> T:
    try:
        _refuse_no_numbers(text)
        value: T = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
        return value
    except (ValueError, RecursionError) as error:
        words = f"line {line}: " * bool(line) + _words_of(error)
        raise BadFileError(f"damaged: {words}", where()) from error


def checked(value: Any, kind: type[T], path: Path) -> T:
    """A value that was read from `path` by another reader (YAML) as `kind`. Raises BadFileError."""
    try:
        found: T = _adapter(kind).validate_python(value, strict=True)  # type: ignore[arg-type]
        return found
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"damaged: {_words_of(error)}", path) from error


_LARGE = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{309}")
"""Within a number that may be beyond all floats, or within the digits of a digest."""

_MOST_LOOKED_AT = 1000


def _refuse_no_numbers(text: bytes) -> None:
    """Raise ValueError for NaN, Infinity and numbers that would be read as it, wherever they stand."""
    if b"NaN" in text or b"Infinity" in text:
        from_json(text, allow_inf_nan=False)
    if _may_be_infinite(text) and _has_infinity(from_json(text)):
        raise ValueError("a number beyond all bounds")


def _may_be_infinite(text: bytes) -> bool:
    """Whether `_LARGE` is met after what can precede a number. Fast: it is asked of every record."""
    for num, found in enumerate(_LARGE.finditer(text)):
        before = text[max(0, found.start() - 400) : found.start()].rstrip(b"0123456789.-")
        if num == _MOST_LOOKED_AT or not before or before[-1:] in b"[:, \t\r\n":
            return True
    return False


def _has_infinity(value: Any) -> bool:
    if isinstance(value, float):
        return math.isinf(value)
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_has_infinity, values))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=STRICT)
    except PydanticUserError:  # a class says itself which further keys it takes; those within it follow it
        if not any("extra" in _config(each) for each in (kind, *get_original_bases(kind))):
            raise TypeError(f"{kind.__qualname__} needs a __pydantic_config__, such as STRICT") from None
        return TypeAdapter(kind)


def _config(kind: Any) -> Any:
    return getattr(kind, "__pydantic_config__", None) or getattr(kind, "model_config", {})


def _words_of(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:300]
    first = error.errors(include_url=False, include_input=False)[0]
    keys = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return printable(f"{keys + ': ' if keys else ''}{first['msg']}")[:300] + more


def _create(name: str, folder: int, mode: int = 0o666) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(name, flags, mode, dir_fd=folder), "wb")


def _one(name: str) -> str:
    """A single component. A leading dot is allowed here: our own temporary names have one."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"not one name within a folder: {name[:80]!r}")
    return name


def _open_regular(name: str, where: _Where, flags: int, folder: int | None) -> BinaryIO:
    """Looked at before it is opened, since opening a device may do something, and again after."""
    try:
        _refuse_another(os.stat(name, dir_fd=folder, follow_symlinks=not flags).st_mode, where)
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    except ValueError as error:  # a NUL in the name
        raise BadFileError(str(error), where()) from error
    try:
        _refuse_another(os.fstat(descriptor).st_mode, where)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


_KINDS = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def _refuse_another(mode: int, where: _Where) -> None:
    if not stat.S_ISREG(mode):
        what = next((words for test, words in _KINDS if test(mode)), "a device")
        raise BadFileError(f"{what} where a file must be", where())


def _bounded(file: BinaryIO, where: _Where, limit: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    _refuse_over(limit, size, where)
    data = file.read(size + 1)  # as much memory as is asked for is taken
    if len(data) > size:  # it grows
        data += file.read(limit + 1 - len(data))
    _refuse_over(limit, len(data), where)
    return data


def _refuse_over(limit: int, size: int, where: _Where) -> None:
    if size > limit:
        raise BadFileError(f"over {limit:,} bytes", where())
