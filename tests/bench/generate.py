"""Rows of generation: C5 sampling and writing, C11 finding what is left of a large run."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image

from cxr_core.data.dataset import SCHEMA
from cxr_core.data.findings import NIH
from cxr_core.data.png import decode_grey
from cxr_core.generation.requests import exact_list
from cxr_core.generation.series import MadeSeries, all_series
from cxr_core.generation.settings import GenerateStage
from cxr_core.generation.shard import generate_shard
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.models.noise import Philox
from cxr_core.models.noise_schedule import read_schedule
from cxr_core.models.sampler import make_scheduler
from cxr_core.models.solver_options import NOISE, solver_options
from cxr_core.models.stable_diffusion import load
from cxr_core.runs.plan import Plan, slices
from cxr_core.runs.run import StageFolder
from tests.bench.harness import Peer, Row

NUM_IMAGES, STEPS, GUIDANCE, THREADS = 32, 10, 4.0, 2


@contextmanager
def c5() -> Iterator[Row]:
    """The tiny base, loaded before; the same prompts, noise, steps and guidance; images on disk at the end."""
    torch.set_num_threads(THREADS)
    cells = {"labels": [1, 0], "view": ["PA", "AP"], "num_images": [NUM_IMAGES // 2] * 2, "placed": [()] * 2}
    images = exact_list(pd.DataFrame(cells), lambda labels, view: f"frontal chest x-ray, {view} view", seed=3)
    settings = GenerateStage(
        name="c5",
        kind="generate",
        inputs={"model": "m", "like": "r"},
        request={"counts": {"Atelectasis": 1}},
        denoising_steps=STEPS,
        guidance=GUIDANCE,
        batch_size=16,
        shard_size=32,
        threads=THREADS,
    )
    facts = {"findings": NIH.names, "num_images": NUM_IMAGES, "generation": {}}
    (plain,) = all_series(settings, lambda role: ())
    options = solver_options(settings.scheduler, read_schedule(BUILT_IN["tiny_base"]), settings.denoising_steps)
    series = MadeSeries(**dict(plain), model="", num_images=NUM_IMAGES, noise=NOISE, solver=options)
    pipeline = load(BUILT_IN["tiny_base"]).to("cpu", torch.float32)
    pipeline.scheduler = make_scheduler(pipeline.scheduler.config, settings.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name, str(i)) for i in count())

        def product() -> Path:
            work = next(folders)
            work.mkdir()
            generate_shard(settings, series, BUILT_IN["tiny_base"], images, facts, work, seed=3)
            return work

        def peer() -> Path:
            out = next(folders)
            out.mkdir()
            for row in images.to_pylist():
                made = pipeline(
                    row["prompt"],
                    num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    latents=Philox([row["seed"]], (4, 16, 16)).draw(),
                )
                made.images[0].save(out / f"{row['image_id']}.png")
            return out

        def check() -> None:
            ours, theirs = product(), peer()
            tar = (ours / "images.tar").read_bytes()
            for row in pq.read_table(ours / "rows.parquet", columns=SCHEMA.names).to_pylist():
                pixels = decode_grey(tar[row["offset"] : row["offset"] + row["length"]], where=row["image_id"])
                other = np.asarray(Image.open(theirs / f"{row['image_id']}.png"), float).mean(axis=2)
                assert np.abs(pixels - other).max() <= 1.5, row["image_id"]

        yield Row(
            "C5",
            f"generate and write {NUM_IMAGES} images of 64 px, {STEPS} steps, guidance, tiny base",
            product,
            (Peer("StableDiffusionPipeline in a loop, Image.save", peer, 1.5, 2),),
            check,
            {"batch_size": settings.batch_size, "threads": THREADS},
        )


NUM_SHARDS, NUM_DONE, SHARD_SIZE = 1000, 990, 1000


@contextmanager
def c11() -> Iterator[Row]:
    """What a run of 10^6 images has left: from its plan and the names of its receipts, or a look for each file.

    The peer looks 50 times for each of 20,000 files, which costs it less than a million files would.
    """
    with tempfile.TemporaryDirectory() as name:
        stage = StageFolder(Path(name, "syn"))
        (stage.path / "receipts").mkdir(parents=True)
        Plan("syn", slices(NUM_SHARDS * SHARD_SIZE, SHARD_SIZE), "fingerprint").write(stage.plan_path)
        for i in range(NUM_DONE):
            (stage.path / "receipts" / f"{i:05d}.json").touch()
        files = [f"{name}/images/syn-{i:08d}.png" for i in range(20_000)]
        Path(name, "images").mkdir()
        for path in files[: len(files) * NUM_DONE // NUM_SHARDS]:
            Path(path).touch()

        def product() -> int:
            plan, done = stage.plan(), stage.done()
            assert plan is not None
            return sum(shard.num_items for shard in plan.shards if shard.id not in done)

        def peer() -> int:
            return sum(not os.path.exists(path) for _ in range(50) for path in files)  # noqa: PTH110 - what a user writes

        def check() -> None:
            assert product() == peer() == 10_000

        yield Row(
            "C11",
            "what is left of 1,000,000 images, 1 % of them",
            product,
            (Peer("os.path.exists per file", peer, 50, 200),),
            check,
        )
