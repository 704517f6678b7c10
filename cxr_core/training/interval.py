"""One shard of a train stage: from one checkpoint to the next."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cxr_core.data.dataset import Dataset
from cxr_core.data.latents import LatentCache
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.models import classifier, localiser
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.presets import PRESETS
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.runs.files import canonical_json, read_json, sha256_path, sha256_text
from cxr_core.runs.plan import Shard
from cxr_core.runs.progress import bar
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Output
from cxr_core.seeds import derive_seed
from cxr_core.training.adversarial import AdversarialEngine, RankedAdversarialEngine
from cxr_core.training.classifier import ClassifierTask
from cxr_core.training.engine import Engine, Task, threads
from cxr_core.training.judge_settings import ClassifierTrain, LocaliserTrain
from cxr_core.training.localiser import LocaliserTask
from cxr_core.training.pggan import PgganTask, new_model
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.settings import TextEncoderTrain, TrainSettings, VaeTrain
from cxr_core.training.world import World

log = room_log(__name__)


@dataclass(frozen=True)
class _Live:
    """The engine as the last shard of this process left it, and the sha256 of the state that it wrote."""

    folder: Path
    settings: TrainSettings
    state_sha256: str
    engine: Engine


_live: _Live | None = None
"""Spares the next shard of the same process the reading of weights and moments that are still in memory."""


def forget() -> None:
    """Drop the engine that is kept in memory: the next shard reads all from its state, as in a new process."""
    global _live
    _live = None


def run_interval(context: Context, shard: Shard, work: Path, *, world: World | None = None) -> Output | None:
    """Train from `shard.start` to `shard.stop` steps; write checkpoint, state, metrics and any preview into `work`.

    Each rank of `world` calls this, and one writes; the others return None. Raises UserError naming stage and step if
    a loss is not finite.
    """
    global _live
    settings: TrainSettings = context.settings
    with threads(settings.threads):
        engine, _live = _engine_at(context, shard, world), None
        start = time.monotonic()
        with bar(f"{settings.name} training", shard.num_items) as progress:
            rows = engine.train(shard.stop, progress)
        trained = time.monotonic()
        output = _write(engine, rows, work, _training_data(context))
    seconds = {"train": round(trained - start, 3), "export": round(time.monotonic() - trained, 3)}
    if shard.stop < settings.steps:
        state = engine.agree(output and sha256_path(output.paths["state"]))
        _live = _Live(context.folder, settings, state, engine)
    if output is None:
        return None
    counts = {"steps": shard.num_items, "images": settings.num_images(shard.start, shard.stop)}
    return Output(output.paths, output.digest, counts, seconds=seconds)


def _training_data(context: Context) -> list[Path]:
    """What a checkpoint says of the images behind it, as frozen; nothing in plans of older versions."""
    path = context.plan_folder / TRAINING_DATA
    return [path] if path.is_file() else []


def _write(engine: Engine, rows: list[dict[str, Any]], work: Path, notes: Sequence[Path]) -> Output | None:
    task = engine.task
    paths = {"checkpoint": work / "model", "state": work / "training.state", "metrics": work / "metrics.jsonl"}
    engine.save(paths["state"])
    with engine.exported():
        task.before_export()
        rows[-1] |= (measured := _validation(engine))
        preview = task.preview(engine.step)
        with engine.whole():
            if engine.writes:
                task.export(paths["checkpoint"], engine.step)
    if not engine.writes:
        return None
    if preview:
        paths["preview"] = work / "preview"
        preview.write(paths["preview"], {"step": engine.step, "validation_loss": measured["validation_loss"]})
        for name in ("preview.png", "preview.json"):
            shutil.copyfile(paths["preview"] / name, paths["checkpoint"] / name)
    for note in notes:
        shutil.copyfile(note, paths["checkpoint"] / note.name)
    paths["metrics"].write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    digests = {role: sha256_path(paths[role]) for role in ("state", "metrics")}
    return Output(paths, sha256_text(canonical_json(digests)))


def _validation(engine: Engine) -> dict[str, Any]:
    measured = engine.task.validation()
    loss = measured["validation_loss"]
    if loss is not None and not math.isfinite(loss):
        raise UserError(
            f"the validation loss is {loss} after step {engine.step}",
            where=f"stage {engine.settings.name!r}",
            hint="look at the images of held-out patients, or lower learning_rate; the last checkpoint is kept",
        )
    return measured


def _engine_at(context: Context, shard: Shard, world: World | None) -> Engine:
    """The engine in the state that the shard before left: still in memory, or read from its receipt's data."""
    if shard.start == 0:
        return _new_engine(context, world)
    before = Receipt.read(context.folder / "receipts" / f"{shard.extra['after']}.json")
    state = next(data for data in before.data if data.role == "state")
    if _live and (_live.folder, _live.settings, _live.state_sha256) == (context.folder, context.settings, state.sha256):
        log.debug("%s goes on at step %d with the weights in memory", context.settings.name, shard.start)
        return _live.engine
    engine = _new_engine(context, world)
    log.debug("%s goes on at step %d from the state of shard %s", context.settings.name, shard.start, before.shard)
    engine.load(before.path(context.folder, "state"))
    return engine


def _new_engine(context: Context, world: World | None) -> Engine:
    settings, task = context.settings, _task(context)
    if isinstance(settings, PgganTrain):
        return RankedAdversarialEngine(task, settings, world=world) if world else AdversarialEngine(task, settings)
    if world is None:
        return Engine(task, settings)
    from cxr_core.training.sharded import ShardedEngine  # DeepSpeed takes long to load, and is for ranks alone

    return ShardedEngine(task, settings, world=world)


def _task(context: Context) -> Task:
    settings, inputs, seed = context.settings, context.inputs, context.seed
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(settings, ClassifierTrain):
        dataset = Dataset.open(inputs["dataset"])
        findings = tuple(read_json(context.plan_folder / "findings.json")["findings"])
        size = settings.image_size or dataset.info.size
        model = classifier.build(settings.preset, size, findings, derive_seed(seed, "weights"))
        return ClassifierTask(model.to(device), dataset, settings, seed)
    if isinstance(settings, LocaliserTrain):
        findings = tuple(read_json(context.plan_folder / "findings.json")["findings"])
        finder = localiser.build(findings, derive_seed(seed, "weights"))
        return LocaliserTask(finder.to(device), Dataset.open(inputs["dataset"]), settings, findings, seed)
    if isinstance(settings, PgganTrain):
        made = new_model(settings, derive_seed(seed, "weights"))
        return PgganTask(made.to(device), Dataset.open(inputs["dataset"]), settings, seed)
    return _task_of_pipeline(context, device)


def _task_of_pipeline(context: Context, device: str) -> Task:
    """Of a part of a Stable Diffusion."""
    # diffusers takes seconds to load, in each process of each attempt; the other models do without.
    from cxr_core.models import stable_diffusion
    from cxr_core.training.diffusion import DiffusionTask
    from cxr_core.training.text_encoder import TextEncoderTask
    from cxr_core.training.vae import VaeTask

    settings, inputs, seed = context.settings, context.inputs, context.seed
    if isinstance(settings, VaeTrain) and settings.preset is not None:
        pipeline = stable_diffusion.build(PRESETS[settings.preset], derive_seed(seed, "weights"))
    else:
        pipeline = stable_diffusion.load(final_checkpoint(inputs["base"]))
    pipeline.to(device)
    if isinstance(settings, VaeTrain):
        return VaeTask(pipeline, Dataset.open(inputs["dataset"]), settings, seed)
    if isinstance(settings, TextEncoderTrain):
        return TextEncoderTask(pipeline, settings, seed)
    prompts = read_json(context.plan_folder / "preview.json")["prompts"]
    prior = LatentCache.open(inputs["prior"]) if "prior" in inputs else None
    return DiffusionTask(pipeline, LatentCache.open(inputs["latents"]), settings, seed, prompts, prior=prior)
