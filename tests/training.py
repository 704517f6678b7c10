"""Train stages of nano size, run in this process."""

import json
from pathlib import Path
from typing import Any

import jobs.latents
import jobs.train
from cxr_core.data.findings import NIH
from cxr_core.data.latents import LatentCache
from cxr_core.data.words import CLINICAL_PREFIX
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint, read_checkpoints
from cxr_core.models.presets import NANO
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.training import interval
from cxr_core.training.diffusion import DiffusionTask
from cxr_core.training.settings import DiffusionTrain, LatentsStage, VaeTrain

SIZE = NANO.image_size
COMMON = {"batch_size": 4, "learning_rate": 1e-3, "threads": 1, "validation_images": 4, "warmup_steps": 1}


def stage(folder: Path, job: Any, settings: Any, inputs: dict[str, Path]) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(StageFolder(folder), job, Context(settings, inputs, 11, folder), {})


def finish(work: Work) -> Path:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return work.folder.path


def forget() -> None:
    """Be as a process that was just started: what is in memory is all that it would lack."""
    interval.forget()


def finish_afresh(work: Work) -> Path:
    """`finish` with every shard as in a process of its own."""
    plan = freeze(work)
    for shard in plan.shards:
        forget()
        run_pack(work, plan, [shard.id])
    finalize(work, plan)
    return work.folder.path


def vae_stage(folder: Path, dataset: Path, **values: Any) -> Work:
    defaults = {**COMMON, "steps": 4, "checkpoint_every": 2, "preset": "nano"}
    settings = VaeTrain(name="v", kind="train", model="vae", inputs={"dataset": "d"}, **{**defaults, **values})
    return stage(folder, jobs.train, settings, {"dataset": dataset})


def latents_stage(folder: Path, dataset: Path, base: Path, **values: Any) -> Work:
    defaults = {"batch_size": 4, "shard_size": 8, "threads": 1}
    settings = LatentsStage(name="l", kind="latents", inputs={"dataset": "d", "base": "b"}, **{**defaults, **values})
    return stage(folder, jobs.latents, settings, {"dataset": dataset, "base": base})


def diffusion_stage(folder: Path, latents: Path, base: Path, *, prior: Path | None = None, **values: Any) -> Work:
    defaults = {**COMMON, "steps": 6, "checkpoint_every": 2, "preview": {"denoising_steps": 2, "num_prompts": 2}}
    inputs = {"latents": latents, "base": base} | ({"prior": prior} if prior else {})
    names = {role: role for role in inputs}
    settings = DiffusionTrain(name="d", kind="train", model="diffusion", inputs=names, **{**defaults, **values})
    return stage(folder, jobs.train, settings, inputs)


def metrics(stage_folder: Path) -> list[dict[str, Any]]:
    lines = [
        line
        for checkpoint in read_checkpoints(stage_folder)
        for line in (stage_folder / checkpoint.metrics).read_text().splitlines()
    ]
    return [json.loads(line) for line in lines]


def losses(stage_folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(stage_folder)]


def prompted(rows: list[dict]) -> list[dict]:
    """Rows of a Dataset with a prompt that says their view and findings."""
    for row in rows:
        row["prompt"] = f"{CLINICAL_PREFIX}, {row['view']} view, {', '.join(NIH.decode(row['labels'])).lower()}"
    return rows


def diffusion_task(latents: Path, base: Path, *, prior: Path | None = None, **values: Any) -> DiffusionTask:
    """The task of a diffusion stage by itself, with a seed of 7."""
    settings = diffusion_stage(latents.parent, latents, base, prior=prior, **values).context.settings
    pipeline = stable_diffusion.load(final_checkpoint(base))
    cache, of_class = LatentCache.open(latents), LatentCache.open(prior) if prior else None
    return DiffusionTask(pipeline, cache, settings, 7, ["a"], prior=of_class)
