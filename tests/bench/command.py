"""The row of the command line: C10."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.harness import Peer, Row


@contextmanager
def c10() -> Iterator[Row]:
    """`cxr --help`, beside what a script that starts with the usual import has cost before its first line."""
    yield Row(
        "C10",
        "cxr --help, a whole process",
        lambda: _process("-m", "jobs.cli", "--help"),
        (
            Peer(
                "importing StableDiffusionPipeline",
                lambda: _process("-c", "from diffusers import StableDiffusionPipeline"),
            ),
        ),
        seconds=(0.3, 0.22),
    )


def _process(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
