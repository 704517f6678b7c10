"""`python -m tests.gpu [G1] [G2] [G2b] [G3] [G4] [G5]` on a machine with a GPU: prints the rates and writes gpu.json.

Needs no network and no weights: Stable Diffusion 2.1 in full size is made of random numbers. `tests/gpu/carry.sh` packs
what such a machine may lack.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from tests.gpu import evaluation, generation, rows
from tests.gpu.rows import Bench
from tests.gpu.steady import Rate

ROWS = {**rows.ROWS, **generation.ROWS, **evaluation.ROWS}

MEASURED_TFLOPS, DATASHEET_TFLOPS = 790, 989
"""bf16 of an H200: the fastest matrix product that was measured, and what is promised."""
ROOM_FOR_64 = 100e9
"""Bytes of a GPU that holds the activations of a batch of 64 without gradient checkpointing."""


def main(arguments: list[str]) -> int:
    """Measure the rows that are named, or all; returns the exit status."""
    wanted = arguments or list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        print(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return 2
    about = torch.cuda.get_device_properties(0)
    print(f"{about.name}, {about.total_memory / 2**30:.0f} GiB, torch {torch.__version__}")
    batch, rates = 64 if about.total_memory > ROOM_FOR_64 else 32, []
    for row in wanted:
        with tempfile.TemporaryDirectory() as name:
            for rate in ROWS[row](Bench(Path(name), batch=batch)):
                print(f"{rate.line()}  {_shares(rate)}", flush=True)
                rates.append(rate)
    record = {"format": 1, "gpu": about.name, "torch": torch.__version__, "rates": [rate.plain() for rate in rates]}
    Path("gpu.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _shares(rate: Rate) -> str:
    return ", ".join(f"{rate.tflops / peak:.0%} of {peak}" for peak in (MEASURED_TFLOPS, DATASHEET_TFLOPS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
