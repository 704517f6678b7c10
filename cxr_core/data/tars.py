"""The tars of a Dataset, kept open: a look at each folder on the way for every image is slow on a cluster's disks."""

import os
from collections import OrderedDict
from threading import Lock
from typing import Any

from cxr_core.runs.door import Place

_MOST_OPEN = 64


class Tars:
    """Bytes of the tars below `place`, by their path there. Used by many threads; other processes open them anew."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = Lock()
        self._open: OrderedDict[str, _Handle] = OrderedDict()

    def __reduce__(self) -> Any:
        return Tars, (self._place,)

    def read(self, path: str, offset: int, num_bytes: int) -> bytes:
        """The bytes from `offset`; fewer where the tar ends. Raises OSError, or BadFileError if it is no plain file."""
        return os.pread(self._handle(path).number, num_bytes, offset)

    def _handle(self, path: str) -> "_Handle":
        with self._lock:
            if path not in self._open:
                place, name = self._place.within(path)
                with place.open(name) as file:
                    self._open[path] = _Handle(os.dup(file.fileno()))
                if len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path]


class _Handle:
    """A descriptor, closed when the last one who reads from it is done."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)
