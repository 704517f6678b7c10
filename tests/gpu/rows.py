"""G1 trains the UNet on cached latents, G3 makes the cache: the product beside what scripts do, with random weights."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.findings import NIH
from cxr_core.data.latents import COLUMNS, LatentCache, LatentsInfo, write_latents_info
from cxr_core.models import stable_diffusion
from cxr_core.models.pixels import to_pixels
from cxr_core.models.presets import SD21_BASE, Preset
from cxr_core.runs.progress import Bar
from cxr_core.training.diffusion import DiffusionTask
from cxr_core.training.encode import encode_rows
from cxr_core.training.engine import Engine
from cxr_core.training.settings import DiffusionTrain
from tests.bench.script import Script
from tests.gpu.steady import Rate, steady
from tests.gpu.work import encode_gflop, train_gflop
from tests.planted import planted_rows, write_planted
from tests.training import prompted

SEED = 3


@dataclass(frozen=True)
class Bench:
    """What is measured: a model of a preset's sizes on a device, in a folder that may be filled."""

    folder: Path
    preset: Preset = SD21_BASE
    device: str = "cuda"
    batch: int = 64
    num_images: int = 512
    warm: float = 20.0
    seconds: float = 40.0

    def pipeline(self) -> Any:
        with torch.device(self.device):
            return stable_diffusion.build(self.preset, SEED).to(self.device)

    def steady(self, row: str, what: str, run: Callable[[], int], gflop: float) -> Rate:
        return steady(row, what, run, gflop, warm=self.warm, seconds=self.seconds)


# G1


def g1(bench: Bench, *, ways: Sequence[bool] = (False, True)) -> Iterator[Rate]:
    """Training of the UNet alone in bf16, without an average; compiled or not."""
    gflop = train_gflop(bench.preset)
    for compiled in ways:
        engine = Engine(task := _task(bench, compiled=compiled), task.settings)
        what = f"cached latents, bf16, batch {bench.batch}{', compiled' if compiled else ''}"
        yield bench.steady("G1", f"product: {what}", partial(_steps, engine), gflop)
        del engine, task
        _forget()
    what = f"script that encodes images and prompts in each step, bf16, batch {bench.batch}"
    yield bench.steady("G1", what, _script(bench), gflop)


def _task(bench: Bench, *, compiled: bool = False) -> DiffusionTask:
    given = {"name": "d", "kind": "train", "model": "diffusion", "inputs": {"latents": "latents", "base": "base"}}
    steps = {"steps": 10**6, "batch_size": bench.batch, "checkpoint_every": 10**6, "learning_rate": 1e-5}
    method = {"train_text_encoder": False, "ema_decay": None, "precision": "bf16", "compile": compiled}
    settings = DiffusionTrain.model_validate({**given, **steps, **method, "validation_images": 0})
    return DiffusionTask(bench.pipeline(), _random_cache(bench), settings, SEED, [])


_STEPS = 4
"""In one call of the engine."""


class _NoBar(Bar):
    def advance(self, num: int = 1, **values: Any) -> None:
        """Nobody watches."""


def _steps(engine: Engine) -> int:
    engine.train(engine.step + _STEPS, _NoBar())
    return _STEPS * engine.settings.batch_size


def _script(bench: Bench) -> Callable[[], int]:
    """Its pictures lie on the device already: reading them is not measured."""
    task, side = _task(bench), bench.preset.image_size
    script, batch = Script(task.pipeline, half=True), task.batch(0, range(bench.batch))
    pixels = torch.rand(bench.batch, 3, side, side, device=bench.device) * 2 - 1

    def run() -> int:
        script.step(pixels, torch.randn_like(batch.noise), batch)
        return bench.batch

    return run


def _random_cache(bench: Bench) -> LatentCache:
    """Latents by chance: what they show does not matter to how long a step takes."""
    folder, side = bench.folder / "latents", bench.preset.unet["sample_size"]
    if not folder.is_dir():
        folder.mkdir()
        rows = pd.DataFrame(prompted(planted_rows(bench.num_images)))[COLUMNS]
        write_parquet(folder / "rows.parquet", pa.Table.from_pandas(rows, preserve_index=False))
        draw = np.random.default_rng(SEED)
        np.save(folder / "m.npy", draw.standard_normal((len(rows), 8, side, side), np.float32).astype(np.float16))
        tokenizer = stable_diffusion.make_tokenizer()
        token_ids = stable_diffusion.tokenize(tokenizer, rows["prompt"].tolist()).numpy().astype(np.int32)
        np.save(folder / "t.npy", token_ids)
        shards = ({"moments": "m.npy", "token_ids": "t.npy", "num_images": len(rows)},)
        sizes = {"num_images": len(rows), "latent_shape": (4, side, side), "num_tokens": token_ids.shape[1]}
        about = {"dtype": "float16", "dataset": "", "findings": NIH.names, "vae": "", "digest": "", "shards": shards}
        write_latents_info(folder, LatentsInfo(**sizes, **about))
    return LatentCache.open(folder)


# G3


def g3(bench: Bench) -> Iterator[Rate]:
    """From PNG in a Dataset to moments in files."""
    base, work = bench.folder / "base", bench.folder / "work"
    stable_diffusion.save(bench.pipeline(), base)
    _forget()
    rows = prompted(planted_rows(bench.num_images))
    dataset = write_planted(bench.folder / "real", rows, size=bench.preset.image_size)
    work.mkdir()

    gflop, threads, batch = encode_gflop(bench.preset), len(os.sched_getaffinity(0)), min(bench.batch, 32)

    def product() -> int:
        encode_rows(base, dataset, dataset.rows, batch, work, dtype="float16", threads=threads)
        return len(dataset.rows)

    yield bench.steady("G3", "product: Dataset to latent cache", product, gflop)
    yield bench.steady("G3", "vae.encode in a loop, batch 1", _one_by_one(base, bench, dataset), gflop)


def _one_by_one(base: Path, bench: Bench, dataset: Dataset) -> Callable[[], int]:
    vae = stable_diffusion.load(base).vae.to(bench.device)
    rows = list(dataset.rows.itertuples())[:_AT_ONCE]

    @torch.no_grad()
    def run() -> int:
        for row in rows:
            pixels = to_pixels(dataset.image(row)[None], 3).to(bench.device)
            np.save(bench.folder / f"{row.image_id}.npy", vae.encode(pixels).latent_dist.parameters.cpu().numpy())
        return len(rows)

    return run


_AT_ONCE = 16
"""Images of the loop between two looks at the clock."""


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


ROWS = {"G1": g1, "G3": g3}
