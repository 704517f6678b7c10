"""A generate stage of very many images that nobody draws: how long it takes to plan, freeze, look at and index them."""

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxr_core.data.dataset import SCHEMA
from cxr_core.models.presets import NANO
from tests.pipeline import python_with_memory
from tests.planted import planted_rows, write_planted

CONFIG = """\
name: many
stages:
  - name: syn
    kind: generate
    inputs: {{model: "{folder}/model", like: "{folder}/real"}}
    request: {{like: train, num_images: {num_images}}}
    batch_size: 50
    shard_size: {shard_size}
"""

_FREEZE = """\
import sys
from pathlib import Path
from cxr_core.runs.pack import freeze
from cxr_core.runs.run import Run
from jobs.config import load_config, resolved
from jobs.launch import prepare

config = load_config(sys.argv[1])
with Run.locked(Path(sys.argv[2]) / config.name, resolved(config)) as run:
    print(len(freeze(prepare(run, config, "syn")).shards))
"""

_INDEX = """\
import sys
from pathlib import Path
import pyarrow.parquet as pq
from cxr_core.data.dataset import write_index_of_parts
from cxr_core.data.duplicates import EqualPixels
from cxr_core.data.findings import NIH
from tests.scale import made_rows

stage = Path(sys.argv[1])
equal = EqualPixels()
with pq.ParquetFile(stage / "plan" / "requests.parquet") as listed:
    parts = (made_rows(listed.read_row_group(i), i) for i in range(listed.num_row_groups))
    info = write_index_of_parts(
        stage, equal.watch(parts), [], findings=NIH, size=512, synthetic=True, about={}
    )
print(info.num_images, len(equal.again()))
"""


@dataclass(frozen=True)
class Cost:
    """What a process took. Seconds of the CPU are what a machine with nothing else to do would need."""

    seconds: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu:.1f} s of the CPU), {self.memory:.0f} MiB"


class ManyImages:
    """A run of `num_images` that is only planned, in `folder`."""

    def __init__(self, folder: Path, num_images: int, shard_size: int) -> None:
        from cxr_core.models.stable_diffusion import build, save

        self.folder, self.num_images = folder, num_images
        save(build(NANO, seed=0), folder / "model")
        write_planted(folder / "real", planted_rows(60))
        self.config = folder / "many.yaml"
        self.config.write_text(CONFIG.format(folder=folder, num_images=num_images, shard_size=shard_size))
        self.stage = folder / "runs" / "many" / "syn"

    def plan(self, *words: str) -> tuple[str, Cost]:
        """What `cxr plan` says, and its cost."""
        return self._timed("-m", "jobs.cli", "plan", str(self.config), "--runs", str(self.folder / "runs"), *words)

    def freeze(self) -> tuple[str, Cost]:
        """Freeze the stage's plan, as the freeze job does; how many shards, and its cost."""
        return self._timed("-c", _FREEZE, str(self.config), str(self.folder / "runs"))

    def pretend_done(self, shards: Sequence[str]) -> None:
        """Put receipts there, as status sees them: by their names alone."""
        (self.stage / "receipts").mkdir()
        for shard in shards:
            (self.stage / "receipts" / f"{shard}.json").touch()

    def status(self) -> tuple[str, Cost]:
        """What `cxr status` says, and its cost."""
        return self._timed("-m", "jobs.cli", "status", str(self.stage.parent))

    def index(self) -> tuple[str, Cost]:
        """Write the index of all images as finalize does; images and equal ones, and its cost."""
        return self._timed("-c", _INDEX, str(self.stage))

    def _timed(self, *words: str) -> tuple[str, Cost]:
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        status, told, memory = python_with_memory(*words)
        assert status == 0, told
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return told, Cost(time.monotonic() - start, cpu, memory)


def made_rows(images: pa.Table, shard: int) -> pa.Table:
    """The rows of a shard as if its images had been drawn: every value as long as a real one's."""
    num = len(images)
    generation = json.dumps({"batch_size": 50, "config": "c" * 64, "draw": 0, "model": "m" * 64, "steps": 20})
    told = {
        "patient_id": [""] * num,
        "split": ["synthetic"] * num,
        "sex": [""] * num,
        "boxes": [[]] * num,
        "generation": [generation] * num,
        "width": [512] * num,
        "height": [512] * num,
        "pixel_sha256": [f"{seed:016x}" * 4 for seed in images["seed"].to_pylist()],
        "source_sha256": [""] * num,
        "shard": [f"shards/{shard:05d}-0123456789ab.tar"] * num,
        "offset": [512 + 100_000 * i for i in range(num)],
        "length": [99_000] * num,
    }
    columns = {**{name: images[name] for name in images.column_names}, **told}
    columns |= {name: columns[name].cast(pa.string()) for name in ("prompt", "request")}
    return pa.table([columns.get(name, [None] * num) for name in SCHEMA.names], schema=SCHEMA)
