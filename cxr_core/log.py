"""Log records: one logger a room, lines for people on the screen, JSON lines in the folder of a task or an attempt.

The rooms of the library log; what a user asked to see is said by `jobs` through `shown.say`. Levels: DEBUG is one step
of the work, INFO is what a person wants to know, WARNING is what may need a hand, ERROR is what failed.

Nothing is set up by an import: a notebook keeps its own settings. `show_log` is for the programs of the suite.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from cxr_core.errors import UserError
from cxr_core.shown import one_line, say

ROOMS = ("cxr_core", "slurm", "containers", "jobs")
"""The loggers above those of the rooms. Other libraries' loggers are left as they are."""


def room_log(module: str) -> logging.Logger:
    """The logger of a module's room: `cxr_core.runs` for `cxr_core.runs.pack`, `slurm` for `slurm.queue`.

    What others wrote into a message (a name, a path) neither steers a terminal nor begins a further line, whoever
    prints the record.
    """
    first, *rest = module.split(".")
    is_in_room = first == "cxr_core" and len(rest) > 1
    log = logging.getLogger(f"{first}.{rest[0]}" if is_in_room else first)
    log.addFilter(_as_text)
    return log


def _as_text(record: logging.LogRecord) -> bool:
    with suppress(TypeError, ValueError):  # of a message that does not fit its values; the handler says so
        record.msg, record.args = one_line(record.getMessage()), None
    return True


def show_log(level: int = logging.INFO) -> None:
    """Show records of the suite from `level` on as lines on stderr; called again, at another level.

    Below INFO each line has time, level and logger.
    """
    for name in ROOMS:
        log = logging.getLogger(name)
        log.propagate = False  # a library that sets up the root logger would print them again
        for handler in [handler for handler in log.handlers if isinstance(handler, _Screen)]:
            log.removeHandler(handler)
    _listen(_Screen(level))


def shown_level() -> int:
    """The level from which records are shown; INFO where `show_log` was not called."""
    screens = [each for each in logging.getLogger(ROOMS[0]).handlers if isinstance(each, _Screen)]
    return screens[0].level if screens else logging.INFO


def fail(log: logging.Logger, text: str) -> None:
    """Say why a program ends, on as many lines as it takes, and record it as one ERROR."""
    say(f"cxr: {text}", err=True)
    log.error("%s", text, extra={_SAID: True})


def crash(log: logging.Logger, error: Exception) -> None:
    """Record a defect with its traceback, which Python itself is about to print."""
    log.error("%s: %s", type(error).__name__, error, exc_info=error, extra={_SAID: True})


_SAID = "said"
"""Attribute of a record that people read elsewhere."""


class _Screen(logging.Handler):
    """Lines for people, as `say` writes them."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, _SAID):
            return
        try:
            # Whoever reads it may be gone, as where a node lost its daemons: no reason to fail a shard.
            with suppress(OSError):
                say(self._line(record), err=True)
        except Exception:  # noqa: BLE001 - the standard library's way: a record that cannot be shown ends nothing
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> str:
        text = logging.Formatter().format(record)
        if self.level < logging.INFO:
            moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
            return f"{moment} {record.levelname} {record.name}: {text}"
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


@contextmanager
def json_lines(
    write: Callable[[str], None], about: Callable[[], Mapping[str, str]], *, level: int = logging.DEBUG
) -> Iterator[None]:
    """Give each record of the suite from `level` on to `write` as a line of JSON, until the block ends.

    Its keys are time, level, logger, then those of `about` (stage, shard, attempt) at that moment, message and, of an
    error that was caught, traceback. Within another such block, the inner one alone gets the records.
    """
    handler = _JsonLines(write, about)
    handler.setLevel(level)
    _inner.append(handler)
    _listen(handler)
    try:
        yield
    finally:
        _inner.remove(handler)
        for name in ROOMS:
            logging.getLogger(name).removeHandler(handler)


_inner: list["_JsonLines"] = []
"""Those that are open, the innermost last."""


class _JsonLines(logging.Handler):
    def __init__(self, write: Callable[[str], None], about: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self._write, self._about = write, about

    def emit(self, record: logging.LogRecord) -> None:
        if _inner[-1:] != [self]:  # none, where another thread logs while the last one ends
            return
        try:
            with suppress(OSError, UserError):  # of a disk that is full, or a damaged folder, the work itself will tell
                self._write(json.dumps(self._fields(record), ensure_ascii=False) + "\n")
        except Exception:  # noqa: BLE001 - as above
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": moment, "level": record.levelname, "logger": record.name, **self._about()}
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        return fields


def _listen(handler: logging.Handler) -> None:
    for name in ROOMS:
        log = logging.getLogger(name)
        log.setLevel(logging.DEBUG)  # each handler chooses for itself
        log.addHandler(handler)
