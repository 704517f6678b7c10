"""`python -m tests.gpu [G1] [G2] [G2b] [G3] [G4] [G5]` on a machine with a GPU: prints the rates and writes gpu.json.

`--warm 20 --seconds 40` says how long every row runs before it is measured and how long it is, `--out FILE` where to.
Needs no network and no weights: Stable Diffusion 2.1 in full size is made of random numbers. `tests/gpu/carry.sh` packs
what such a machine may lack.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from tests.gpu import evaluation, generation, rows
from tests.gpu.rows import Bench
from tests.gpu.steady import SECONDS, WARM_SECONDS, Rate

ROWS = {**rows.ROWS, **generation.ROWS, **evaluation.ROWS}

MEASURED_TFLOPS, DATASHEET_TFLOPS = 790, 989
"""bf16 of an H200: the fastest matrix product that was measured, and what is promised."""
ROOM_FOR_64 = 100e9
"""Bytes of a GPU that holds the activations of a batch of 64 without gradient checkpointing."""


def main(arguments: list[str]) -> int:
    """Measure the rows that are named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu")
    parser.add_argument("rows", nargs="*", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--warm", type=float, default=WARM_SECONDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return 2
    about = torch.cuda.get_device_properties(0)
    print(f"{about.name}, {about.total_memory / 2**30:.0f} GiB, torch {torch.__version__}")
    batch, rates = 64 if about.total_memory > ROOM_FOR_64 else 32, []
    for row in asked.rows:
        with tempfile.TemporaryDirectory() as name:
            bench = Bench(Path(name), batch=batch, warm=asked.warm, seconds=asked.seconds)
            for rate in ROWS[row](bench):
                print(f"{rate.line()}  {_shares(rate)}", flush=True)
                rates.append(rate.plain())
                record = {"format": 1, "gpu": about.name, "torch": torch.__version__, "rates": rates}
                asked.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _shares(rate: Rate) -> str:
    return ", ".join(f"{rate.tflops / peak:.0%} of {peak}" for peak in (MEASURED_TFLOPS, DATASHEET_TFLOPS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
