"""The writer: images become PNGs in a tar shard in background threads, so that the sampler never waits for the disk."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from cxr_core.data.dataset import ShardWriter, pixel_sha256
from cxr_core.data.findings import Findings
from cxr_core.data.png import SYNTHETIC, encode_grey

_NUM_ENCODERS = 2


class BackgroundWriter:
    """A `ShardWriter` behind threads: encoders in parallel, one thread that appends to the tar in the order of `put`.

    At most `queue_size` images wait; then `put` waits too, and `waited` counts those seconds. The first error of a
    thread is raised by the next `put` or at the end of the `with` block.
    """

    def __init__(self, path: Path, findings: Findings, *, queue_size: int = 256) -> None:
        self.waited = 0.0
        self._shard = ShardWriter(path, findings)
        self._slots = BoundedSemaphore(queue_size)
        self._encoders = ThreadPoolExecutor(_NUM_ENCODERS, "encode")
        self._appender = ThreadPoolExecutor(1, "append")
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._encoders, self._appender):
            pool.shutdown(wait=True, cancel_futures=error is not None)
        self._shard.__exit__(kind, error, trace)
        if error is None:
            self._raise_error()

    def put(self, pixels: np.ndarray, row: Mapping[str, Any]) -> None:
        """Hand over one image (uint8, height x width) and its row without width, height and pixel_sha256."""
        start = time.perf_counter()
        self._slots.acquire()
        self.waited += time.perf_counter() - start
        self._raise_error()
        self._appender.submit(self._append, self._encoders.submit(_encode, pixels), row)

    def rows(self) -> pa.Table:
        """The rows in the order of `put`, once the `with` block has ended."""
        return self._shard.rows()

    def _append(self, encoded: "Future[tuple[bytes, dict[str, Any]]]", row: Mapping[str, Any]) -> None:
        try:
            png, facts = encoded.result()
            if self._error is None:
                self._shard.add(png, {**row, **facts})
        except Exception as error:  # noqa: BLE001 - carried to the thread that puts
            self._error = self._error or error
        finally:
            self._slots.release()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _encode(pixels: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    height, width = pixels.shape
    return encode_grey(pixels, SYNTHETIC), {"height": height, "width": width, "pixel_sha256": pixel_sha256(pixels)}
