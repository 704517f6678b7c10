"""Progress of long work: a bar on a terminal, plain lines in a log, and counters for the attempt's heartbeat."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol

from cxr_core import shown
from cxr_core.log import shown_level

_LOG_EVERY = 10.0
"""Seconds between the plain lines of a log."""

heartbeat: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("heartbeat", default=None)
"""Where counters go besides the screen; set by the pack that runs a shard."""

_num_bars: ContextVar[int] = ContextVar("num_bars", default=0)
"""How many bars are on the screen: one inside another leaves no line behind when it is done."""


class Bar(Protocol):
    """What long work reports to."""

    def advance(self, num: int = 1, **values: Any) -> None:
        """`num` more of the total are done; `values` (a loss, a rate) are shown beside it."""


@contextmanager
def bar(label: str, total: int) -> Iterator[Bar]:
    """Report the progress of `total` things. A bar if stderr is a terminal, else a line every ten seconds; neither
    with `cxr --quiet`."""
    if shown_level() > logging.INFO:
        yield _Quiet(label, total)
        return
    if not sys.stderr.isatty():
        yield _Lines(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    inner = _num_bars.get() > 0
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    screen = Progress(
        *columns, TextColumn("{task.fields[values]}", markup=False), console=Console(stderr=True), transient=inner
    )
    token = _num_bars.set(_num_bars.get() + 1)
    try:
        with screen as progress:
            task = progress.add_task(shown.printable(label), total=total, values="")
            yield _Rich(
                label, total, lambda num, text: progress.update(task, advance=num, values=shown.printable(text))
            )
    finally:
        _num_bars.reset(token)


class _Counter:
    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0

    def count(self, num: int, values: dict[str, Any]) -> str:
        self.done += num
        beat = heartbeat.get()
        if beat is not None:
            beat({"doing": self.label, "done": self.done, "total": self.total, **values})
        return " ".join(f"{name} {_short(value)}" for name, value in values.items())


class _Quiet(_Counter):
    def advance(self, num: int = 1, **values: Any) -> None:
        self.count(num, values)


class _Lines(_Counter):
    def __init__(self, label: str, total: int) -> None:
        super().__init__(label, total)
        self._last = self._start = time.monotonic()

    def advance(self, num: int = 1, **values: Any) -> None:
        text = self.count(num, values)
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY:
            rate = self.done / (now - self._start)
            # Whoever reads it may be gone, as where a node lost its daemons: no reason to fail a shard.
            with suppress(OSError):
                shown.say(f"{self.label}: {self.done}/{self.total} ({rate:.1f}/s) {text}".rstrip(), err=True)
            self._last = now


class _Rich(_Counter):
    def __init__(self, label: str, total: int, show: Callable[[int, str], None]) -> None:
        super().__init__(label, total)
        self._show = show

    def advance(self, num: int = 1, **values: Any) -> None:
        self._show(num, self.count(num, values))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
