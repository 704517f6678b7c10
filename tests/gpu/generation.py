"""G2 draws images and writes them, G2b does so beside drawing alone: the product and scripts, with random weights."""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from cxr_core.data.findings import NIH
from cxr_core.generation.requests import exact_list
from cxr_core.generation.series import MadeSeries, all_series
from cxr_core.generation.settings import GenerateStage
from cxr_core.generation.shard import Clock, Drawer, generate_shard
from cxr_core.models import stable_diffusion
from cxr_core.models.noise import Philox
from cxr_core.models.noise_schedule import read_schedule
from cxr_core.models.sampler import encode_prompts, forget_model, load_model, make_scheduler
from cxr_core.models.solver_options import NOISE, solver_options
from tests.gpu.rows import SEED, Bench
from tests.gpu.steady import Rate
from tests.gpu.work import decode_gflop, forward_gflop

GUIDANCE, STEPS = 5.0, 25


def g2(
    bench: Bench,
    *,
    dtype: str = "bfloat16",
    steps: int = STEPS,
    ways: Sequence[bool] = (False, True),
    peer_batch: int = 32,
) -> Iterator[Rate]:
    """DPM-Solver++ with guidance, into tar shards; compiled or not. Peers: the pipeline, one by one and in batches."""
    gflop = _gflop(bench, steps)
    base = _base(bench)
    for compiled in ways:
        settings = _settings(bench, dtype, steps, compiled)
        what = f"product: {dtype}, batch {bench.batch}, {steps} steps{', compiled' if compiled else ''}"
        yield bench.steady("G2", what, partial(_shard, bench, settings, base), gflop)
        _forget()
    for batch in (1, peer_batch):
        what = f"StableDiffusionPipeline, {dtype}, batch {batch}, Image.save"
        yield bench.steady("G2", what, _pipeline(bench, base, dtype, steps, batch), gflop)
        _forget()


def g2b(bench: Bench, *, dtype: str = "bfloat16", steps: int = STEPS, compiled: bool = True) -> Iterator[Rate]:
    """Whether the device waits for encoders and disk."""
    base, settings, gflop = _base(bench), _settings(bench, dtype, steps, compiled), _gflop(bench, steps)
    yield bench.steady("G2b", "product, writing", partial(_shard, bench, settings, base), gflop)
    yield bench.steady("G2b", "product, not writing", _drawing(bench, settings, base), gflop)
    _forget()


ROWS = {"G2": g2, "G2b": g2b}


def _gflop(bench: Bench, steps: int) -> float:
    """Of one image: with guidance each step is two forward passes."""
    return 2 * steps * forward_gflop(bench.preset) + decode_gflop(bench.preset)


def _base(bench: Bench) -> Path:
    base = bench.folder / "base"
    stable_diffusion.save(bench.pipeline(), base)
    _forget()
    return base


def _settings(bench: Bench, dtype: str, steps: int, compiled: bool) -> GenerateStage:
    given = {"name": "g2", "kind": "generate", "inputs": {"model": "m", "like": "r"}}
    request = {"counts": {"Effusion": bench.num_images}}
    sampler = {
        "denoising_steps": steps,
        "guidance": GUIDANCE,
        "dtype": dtype,
        "compile": compiled,
        "channels_last": True,
    }
    sizes = {"batch_size": bench.batch, "shard_size": max(bench.num_images, bench.batch)}
    return GenerateStage.model_validate({**given, "request": request, **sampler, **sizes})


def _images(bench: Bench) -> pa.Table:
    cells = {"labels": [4, 0], "view": ["PA", "AP"], "num_images": [bench.num_images // 2] * 2, "placed": [()] * 2}
    return exact_list(pd.DataFrame(cells), lambda labels, view: f"frontal chest x-ray, {view} view, {labels}", SEED)


def _series(bench: Bench, settings: GenerateStage, base: Path) -> MadeSeries:
    (plain,) = all_series(settings, lambda role: ())
    options = solver_options(settings.scheduler, read_schedule(base), settings.denoising_steps)
    return MadeSeries(**dict(plain), model="", num_images=bench.num_images, noise=NOISE, solver=options)


def _shard(bench: Bench, settings: GenerateStage, base: Path) -> int:
    work = bench.folder / "shard"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    facts = {"findings": NIH.names, "num_images": bench.num_images, "generation": {}}
    generate_shard(settings, _series(bench, settings, base), base, _images(bench), facts, work, seed=SEED)
    return bench.num_images


def _drawing(bench: Bench, settings: GenerateStage, base: Path) -> Callable[[], int]:
    model = load_model(base, settings.dtype, channels_last=settings.channels_last, compiled=settings.compile)
    rows = _images(bench).to_pylist()
    texts = encode_prompts(model, ["", *(row["prompt"] for row in rows)])
    drawer = Drawer(model, texts, settings, _series(bench, settings, base), Clock())

    def run() -> int:
        for start in range(0, len(rows), bench.batch):
            drawer.draw(rows[start : start + bench.batch])
        return len(rows)

    return run


def _pipeline(bench: Bench, base: Path, dtype: str, steps: int, batch: int) -> Callable[[], int]:
    pipeline: Any = stable_diffusion.load(base).to(bench.device, getattr(torch, dtype))
    pipeline.scheduler = make_scheduler(pipeline.scheduler.config, "dpmsolver++")
    pipeline.set_progress_bar_config(disable=True)
    rows = _images(bench).to_pylist()[:batch]
    prompts, seeds = [row["prompt"] for row in rows], [row["seed"] for row in rows]
    shape = (pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2)

    def run() -> int:
        latents = Philox(seeds, shape).draw().to(pipeline.unet.dtype)
        made = pipeline(prompts, num_inference_steps=steps, guidance_scale=GUIDANCE, latents=latents)
        for row, image in zip(rows, made.images, strict=True):
            image.save(bench.folder / f"{row['image_id']}.png")
        return len(rows)

    return run


def _forget() -> None:
    forget_model()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
