"""Which function makes which row. Rows import what they measure when they are made, one process a row."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.bench.harness import Row

ROWS = {
    "C1": "tests.bench.images:c1",
    "C1b": "tests.bench.images:c1b",
    "C2": "tests.bench.images:c2",
    "C3": "tests.bench.training:c3",
    "C3b": "tests.bench.training:c3b",
    "C4": "tests.bench.training:c4",
    "C5": "tests.bench.generate:c5",
    "C6": "tests.bench.evaluation:c6",
    "C6b": "tests.bench.evaluation:c6b",
    "C7": "tests.bench.neighbours:c7",
    "C8": "tests.bench.evaluation:c8",
    "C9": "tests.bench.submit:c9",
    "C10": "tests.bench.command:c10",
    "C11": "tests.bench.generate:c11",
    "C12": "tests.bench.containers:c12",
    "C12b": "tests.bench.containers:c12b",
}


def make(row_id: str) -> AbstractContextManager[Row]:
    """The row as a context manager: what it prepared on disk is gone afterwards."""
    module, name = ROWS[row_id].split(":")
    maker: Callable[[], AbstractContextManager[Row]] = getattr(importlib.import_module(module), name)
    return maker()
