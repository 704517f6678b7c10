"""Rates in steady state: what comes first is thrown away, and the GPU's clocks are written down beside."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

WARM_SECONDS, SECONDS = 20.0, 40.0
"""Of every row: how long it runs before it is measured, and how long it is."""


@dataclass(frozen=True)
class Rate:
    """Images a second of one way to do a thing."""

    row: str
    what: str
    images_per_second: float
    seconds: float
    tflops: float
    """Of the model's multiplications and additions, counted twice, as is usual."""
    clocks: Mapping[str, str]

    def line(self) -> str:
        figures = [f"{self.seconds:.0f} s", f"{self.tflops:.0f} TFLOP/s"]
        figures += [f"{name} {value}" for name, value in self.clocks.items()]
        return f"{self.row:<4} {self.images_per_second:8.1f} images/s ({', '.join(figures)})  {self.what}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def steady(
    row: str,
    what: str,
    run: Callable[[], int],
    gflop_an_image: float,
    *,
    warm: float = WARM_SECONDS,
    seconds: float = SECONDS,
) -> Rate:
    """Call `run`, which returns how many images it did, again and again for `warm` and then for `seconds` seconds."""
    _for(warm, run)
    num, took = _for(seconds, run)
    return Rate(row, what, num / took, took, num / took * gflop_an_image / 1000, _clocks())


def _for(seconds: float, run: Callable[[], int]) -> tuple[int, float]:
    start, num = time.perf_counter(), 0
    while True:
        num += run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if (took := time.perf_counter() - start) >= seconds:
            return num, took


def _clocks() -> dict[str, str]:
    """While the GPU is still warm from the work; nothing where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    names = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return dict(zip(names, (value.strip() for value in said.split(",")), strict=False))
