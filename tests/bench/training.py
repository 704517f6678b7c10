"""Rows of training: C3 what a step reads, C4 a whole step of the denoiser."""

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import jobs.latents
import jobs.preprocess
from cxr_core.data.dataset import Dataset
from cxr_core.data.latents import LatentCache
from cxr_core.data.settings import PreprocessStage
from cxr_core.models import stable_diffusion
from cxr_core.models.pixels import to_pixels
from cxr_core.models.presets import NANO, SD21_BASE, Config, Preset
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.progress import bar
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.training.diffusion import Batch, DiffusionTask
from cxr_core.training.engine import Engine, threads
from cxr_core.training.settings import DiffusionTrain, LatentsStage
from tests.bench.harness import Peer, Row
from tests.bench.script import Script

SEED = 3
NUM_IMAGES, BATCH, REPEAT = 48, 16, 12
"""Of C3: images, a batch, and batches in one turn."""
STEPS, PART = 1, 4
"""Of C4: steps in one turn, and by how much the widths of Stable Diffusion 2.1 are divided."""


def _run(folder: Path, job: Any, settings: Any, inputs: dict[str, Path]) -> Path:
    stage = folder / settings.name
    stage.mkdir()
    work = Work(StageFolder(stage), job, Context(settings, inputs, SEED, stage), {})
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return stage


@contextmanager
def _workplace(preset: Preset, num_images: int, dtype: str, **train: Any) -> Iterator[tuple[Dataset, DiffusionTask]]:
    """Phantoms, their latents by a model of random weights, and the task of training it."""
    with tempfile.TemporaryDirectory() as name, threads(1):
        folder, base = Path(name), Path(name, "base")
        stable_diffusion.save(stable_diffusion.build(preset, SEED), base)
        data = {"kind": "phantom", "num_images": num_images, "seed": SEED, "size": preset.image_size}
        real = {"name": "real", "kind": "preprocess", "data": data, "size": preset.image_size}
        dataset = _run(folder, jobs.preprocess, PreprocessStage.model_validate(real), {})
        latents = {"name": "latents", "kind": "latents", "inputs": {"dataset": "real", "base": "base"}, "dtype": dtype}
        settings = LatentsStage.model_validate({**latents, "batch_size": 8, "shard_size": 512, "threads": 1})
        cache = LatentCache.open(_run(folder, jobs.latents, settings, {"dataset": dataset, "base": base}))
        task = DiffusionTask(stable_diffusion.load(base), cache, _settings(**train), SEED, [])
        yield Dataset.open(dataset), task


def _settings(**values: Any) -> DiffusionTrain:
    given = {"name": "d", "kind": "train", "model": "diffusion", "inputs": {"latents": "latents", "base": "base"}}
    plain = {"train_text_encoder": False, "ema_decay": None, "caption_dropout": 0.0, "schedule": "constant"}
    steps = {"steps": 10_000, "batch_size": BATCH, "checkpoint_every": 10_000, "learning_rate": 1e-5}
    return DiffusionTrain.model_validate({**given, **plain, **steps, **values})


# C3


def _latents_of_64() -> Preset:
    """Nano parts whose VAE halves three times: the cache has the size of Stable Diffusion's at 512 px."""
    vae = {**NANO.vae, "block_out_channels": (8, 8, 16, 16), "sample_size": 512}
    vae |= {f"{way}_block_types": (NANO.vae[f"{way}_block_types"][0],) * 4 for way in ("down", "up")}
    return Preset("bench", 512, 0, vae, {**NANO.unet, "sample_size": 64}, NANO.text_encoder, NANO.scheduler)


class _Pictures(torch.utils.data.Dataset):
    """As fine-tuning scripts read: a PNG and its prompt at a time, opened, made RGB, scaled to [-1, 1], tokenized."""

    def __init__(self, paths: list[Path], prompts: list[str], tokenizer: Any) -> None:
        self.paths, self.prompts, self.tokenizer = paths, prompts, tokenizer

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        picture = Image.open(self.paths[index]).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div_(255)
        token_ids = stable_diffusion.tokenize(self.tokenizer, [self.prompts[index]])[0]
        return {"pixels": pixels.sub_(0.5).div_(0.5), "token_ids": token_ids}


@contextmanager
def _pictures() -> Iterator[tuple[_Pictures, DiffusionTask]]:
    with _workplace(_latents_of_64(), NUM_IMAGES, "float16") as (dataset, task), tempfile.TemporaryDirectory() as name:
        rows = dataset.rows[dataset.rows["split"] == "train"]
        paths = [Path(name, f"{row.image_id}.png") for row in rows.itertuples()]
        for path, row in zip(paths, rows.itertuples(), strict=True):
            Image.fromarray(dataset.image(row)).save(path)
        yield _Pictures(paths, rows["prompt"].tolist(), task.pipeline.tokenizer), task


@contextmanager
def c3() -> Iterator[Row]:
    with _pictures() as (pictures, task):

        def product(step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
            shown = task.shown.at(step)
            moments = np.stack([cache.moments[row] for cache, row in shown])
            token_ids = np.stack([cache.token_ids[row] for cache, row in shown])
            return torch.from_numpy(moments).float(), torch.from_numpy(token_ids).long()

        def check() -> None:
            """The prompts are the same; the images are other numbers, of which a step makes the same."""
            of_image = {path.stem: item["token_ids"] for path, item in zip(pictures.paths, pictures, strict=True)}
            for token_ids, image_id in zip(product()[1], task.examples(0), strict=True):
                assert torch.equal(token_ids, of_image[image_id])

        yield _loading("C3", "read", lambda: [product(step) for step in range(REPEAT)], pictures, (30, 100), check)


@contextmanager
def c3b() -> Iterator[Row]:
    """The peer draws its noise later, in its step."""
    with _pictures() as (pictures, task):

        def product() -> None:
            for step in range(REPEAT):
                task.batch(step, range(BATCH))

        yield _loading("C3b", "read, sampled and given noise", product, pictures)


def _loading(
    row: str, what: str, product: Any, pictures: _Pictures, wanted: tuple[Any, Any] = (None, None), check: Any = None
) -> Row:
    def peer() -> None:
        loader = torch.utils.data.DataLoader(pictures, BATCH, shuffle=True, drop_last=True)
        for _ in islice(chain.from_iterable(repeat(loader)), REPEAT):
            pass

    peers = (Peer("PIL + transforms dataset, PNG of 512 px", peer, *wanted),)
    measure = f"{REPEAT} batches of {BATCH} images of 512 px as latents and token ids, {what}, 1 thread"
    return Row(row, measure, product, peers, check)


# C4


def _part(config: Config, widths: tuple[str, ...], norm: str = "") -> Config:
    def less(value: Any) -> Any:
        return tuple(map(less, value)) if isinstance(value, tuple) else value // PART

    changed = {name: less(config[name]) for name in widths}
    return {**config, **changed} | ({norm: config[norm] // PART} if norm else {})


def small_sd() -> Preset:
    """Stable Diffusion 2.1 with a quarter of every width, for 256 px: what its parts cost beside each other stays."""
    unet = _part(SD21_BASE.unet, ("block_out_channels", "cross_attention_dim"), "norm_num_groups")
    vae = _part(SD21_BASE.vae, ("block_out_channels",), "norm_num_groups")
    text = _part(SD21_BASE.text_encoder, ("hidden_size", "intermediate_size", "num_attention_heads", "projection_dim"))
    heads = {"attention_head_dim": (1, 2, 4, 4), "sample_size": 32}
    return Preset("small", 256, 0, {**vae, "sample_size": 256}, {**unet, **heads}, text, SD21_BASE.scheduler)


def _drawn(dataset: Dataset, task: DiffusionTask, step: int) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Pixels of the images of a step, the chance in their latents, and all else."""
    batch, rows = task.batch(step, range(task.settings.batch_size)), dataset.rows.set_index("image_id", drop=False)
    pixels = np.stack([dataset.image(rows.loc[image_id]) for image_id in task.examples(step)])
    moments = torch.from_numpy(np.stack([cache.moments[row] for cache, row in task.shown.at(step)]))
    mean, log_variance = moments.chunk(2, dim=1)
    unscaled = batch.latents / task.pipeline.vae.config["scaling_factor"]
    return to_pixels(pixels, 3), (unscaled - mean) / torch.exp(0.5 * log_variance.clamp(-30, 20)), batch


@contextmanager
def c4() -> Iterator[Row]:
    with _workplace(small_sd(), 8, "float32", batch_size=2) as (dataset, task):
        script = Script(copy.deepcopy(task.pipeline))
        # What is drawn by chance is the product's, so that the losses can be compared.
        drawn = [_drawn(dataset, task, step) for step in range(STEPS)]
        losses, of_script = [], []
        engine = Engine(task, task.settings)

        def product() -> None:
            with bar("C4", STEPS) as progress:
                losses.extend(row["loss"] for row in engine.train(engine.step + STEPS, progress))

        def peer() -> None:
            of_script.extend(float(script.step(*each)) for each in drawn)

        def check() -> None:
            assert np.allclose(losses[:STEPS], of_script[:STEPS], rtol=1e-4), (losses, of_script)

        yield Row(
            "C4",
            "a training step of 2 images of 256 px, 1 thread, Stable Diffusion 2.1 with a quarter of its widths",
            product,
            (Peer("script that encodes images and prompts in each step", peer, 1.35, 1.5),),
            check,
            {"parameters": sum(parameter.numel() for parameter in engine.parameters.values())},
        )
