"""The train job: a chain of checkpoint intervals, each a shard that continues exactly where the one before it ended."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from cxr_core.data.captions import warning
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.data.latents import LatentCache
from cxr_core.data.prompts import MAX_TOKENS, token_counter
from cxr_core.errors import UserError
from cxr_core.models.base import inspect_base
from cxr_core.models.checkpoints import Checkpoint, final_checkpoint, has_vae, is_kept, lock_base, write_checkpoints
from cxr_core.models.geometry import Geometry
from cxr_core.models.localiser_folder import NUM_PARAMETERS
from cxr_core.models.pggan_folder import PGGANS
from cxr_core.models.presets import CLASSIFIERS, PRESETS
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.runs.files import canonical_json, sha256_text, write_json
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.training import memory
from cxr_core.training.judge_settings import ClassifierTrain, LocaliserTrain
from cxr_core.training.overfit import overfit
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.sampling import FILE as SAMPLING
from cxr_core.training.sampling import realised, training_source
from cxr_core.training.settings import DiffusionTrain, RankedTrain, TextEncoderTrain, TrainSettings, VaeTrain
from jobs.learnt import learnt_from

Train: TypeAlias = VaeTrain | TextEncoderTrain | DiffusionTrain | ClassifierTrain | LocaliserTrain | PgganTrain

_FILES_A_CHECKPOINT = 14
_FILES_OF_OURS = {"classifier": 3, "localiser": 3, "pggan": 5}
"""Of models whose folder is none of diffusers': with what it learnt from, and of a PG-GAN its preview."""
_NUMBERS_A_PARAMETER = 4
"""In a training state: the weight, two moments and the average."""


def estimate(settings: Train, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Checkpoints that stay, and one training state. Raises UserError where the base cannot be used."""
    intervals = _intervals(settings)
    num_kept = sum(_stays(settings, shard) for shard in intervals)
    weights, notes = _weight_bytes(settings, inputs.get("base"))
    like = _model_like(inputs.get("base"))
    state = _NUMBERS_A_PARAMETER * weights
    if isinstance(settings, DiffusionTrain) and like:
        # Written in float32, whatever the base is in; of what is not trained, the state holds nothing.
        found = memory.memory_of(settings, like)
        weights, state = found.weights, found.trained + found.optimizer + found.average
    num_bytes = num_kept * weights + state
    files_each = _FILES_OF_OURS.get(settings.model, _FILES_A_CHECKPOINT)
    num_files = num_kept * files_each + 4 * len(intervals) + 8
    if isinstance(settings, DiffusionTrain):
        notes += [inspect_base(like).words] if isinstance(inputs["base"], Path) and like else []
        notes += memory.notes(settings, like) if like else ["its memory is known once the base is there"]
        notes += _few_patients(inputs["latents"])
    return Estimate(settings.steps, len(intervals), num_files, num_bytes, notes, like=like)


def _few_patients(latents: Estimate | Path) -> list[str]:
    """A warning of captions that few patients have, where the latents are there."""
    if not isinstance(latents, Path):
        return []
    cache = LatentCache.open(latents)
    return warning(cache.rows[cache.rows["split"] == "train"], Findings(cache.info.findings))


def freeze(context: Context, work: Path) -> Draft:
    """Check that inputs fit together; write what the plan is a function of into side files.

    base.json: what is trained further. Of a classifier or a localiser findings.json, what it tells; of a diffusion
    model preview.json, what is drawn, and sampling.json, what is shown how often; training_data.json, what every
    checkpoint says that it learnt from.
    """
    settings: Train = context.settings
    if not isinstance(settings, ClassifierTrain | LocaliserTrain | PgganTrain) and "base" in context.inputs:
        base = inspect_base(final_checkpoint(context.inputs["base"]))
        lock_base(base, settings.base_sha256, work / "base.json")
    if isinstance(settings, VaeTrain):
        _check_vae(settings, context.inputs)
    elif isinstance(settings, ClassifierTrain):
        findings = _check_classifier(settings, context.inputs)
        write_json(work / "findings.json", {"format": 1, "findings": findings})
    elif isinstance(settings, LocaliserTrain):
        findings = _check_localiser(settings, context.inputs)
        write_json(work / "findings.json", {"format": 1, "findings": findings})
    elif isinstance(settings, PgganTrain):
        _check_pggan(settings, context.inputs)
    elif isinstance(settings, DiffusionTrain):
        prompts = _check_diffusion(settings, context.inputs)
        write_json(work / "preview.json", {"format": 1, "prompts": prompts})
        source = training_source(LatentCache.open(context.inputs["latents"]), settings, context.seed)
        write_json(work / SAMPLING, realised(source, settings.steps))
    if learnt := learnt_from(context.inputs):
        write_json(work / TRAINING_DATA, learnt.model_dump(mode="json"))
    return Draft(_intervals(settings), chain=True)


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Train one interval, in this process or on the ranks that the stage asks for."""
    if isinstance(context.settings, RankedTrain) and context.settings.ranks:
        from jobs.ranks import train_on_ranks

        return train_on_ranks(context, shard, work)
    from cxr_core.training.interval import run_interval

    output = run_interval(context, shard, work)
    assert output is not None
    return output


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write checkpoints.json."""
    shards = _intervals(context.settings)
    checkpoints = [_checkpoint(context, shard, receipt) for shard, receipt in zip(shards, receipts, strict=True)]
    write_checkpoints(context.folder, checkpoints)
    return {
        "digest": sha256_text(canonical_json([receipt.digest for receipt in receipts])),
        "steps": context.settings.steps,
        "final": checkpoints[-1].path,
        "validation_loss": checkpoints[-1].validation_loss,
    } | _overfit(context.settings, checkpoints)


def _overfit(settings: Train, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """Whether a diffusion model was trained for too long, and which step had the lowest loss on held-out patients."""
    if not isinstance(settings, DiffusionTrain):
        return {}
    found = overfit([(each.step, each.validation_loss) for each in checkpoints if each.validation_loss is not None])
    return {"overfit": found is not None} | ({"best_step": found.best_step} if found else {})


def obsolete(context: Context, done: Sequence[str]) -> Sequence[tuple[str, str]]:
    """States from which nothing continues any more, and checkpoints that the keep rule does not keep."""
    finished = set(done)
    shards = [shard for shard in _intervals(context.settings) if shard.id in finished]
    newest = shards[-1].stop if shards else 0
    # Not just all but the newest: a repaired chain has holes, and the interval before a hole is continued.
    states = [(str(shard.extra["after"]), "state") for shard in shards if shard.extra.get("after") in finished]
    return states + [(shard.id, "checkpoint") for shard in shards if not _stays(context.settings, shard, newest)]


def _intervals(settings: TrainSettings) -> tuple[Shard, ...]:
    starts = range(0, settings.steps, settings.checkpoint_every)
    stops = [min(start + settings.checkpoint_every, settings.steps) for start in starts]
    return tuple(
        Shard(f"{i:05d}", start, stop, {"after": f"{i - 1:05d}"} if i else {})
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
    )


def _stays(settings: TrainSettings, shard: Shard, newest: int | None = None) -> bool:
    """Whether the shard's checkpoint is kept once `newest` steps are done (all of them by default)."""
    keep, interval = settings.keep, settings.checkpoint_every
    return is_kept(shard.stop, newest or settings.steps, interval=interval, last=keep.last, every=keep.every)


def _weight_bytes(settings: Train, base: Estimate | Path | None) -> tuple[int, list[str]]:
    """Bytes of one checkpoint, and what has to be said of them."""
    if isinstance(settings, ClassifierTrain):
        notes = [] if settings.findings else ["at most this: how many findings there are is known once it starts"]
        return CLASSIFIERS[settings.preset].num_bytes(len(settings.findings) or _MOST_FINDINGS), notes
    if isinstance(settings, LocaliserTrain):
        return 4 * NUM_PARAMETERS, []
    if isinstance(settings, PgganTrain):
        return PGGANS[settings.preset].num_bytes(settings.channels), _shares(settings)
    if isinstance(base, Estimate):
        return base.num_bytes, ["at most this: the size of the base is known once it is trained"]
    return _bytes_of(base) if base else PRESETS[str(_preset(settings))].num_bytes, []


def _shares(settings: PgganTrain) -> list[str]:
    """What each rank has of a batch, where there are ranks."""
    if settings.ranks is None:
        return []
    ranks, sizes = settings.ranks, sorted({budget.batch_size // settings.num_ranks for budget in settings.budgets})
    least_and_most = " to ".join(str(size) for size in dict.fromkeys([sizes[0], sizes[-1]]))
    return [f"{ranks.num} ranks ({ranks.nodes} x {ranks.per_node}): each has {least_and_most} of the images of a step"]


def _model_like(base: Estimate | Path | None) -> Path | None:
    """A diffusers folder of the same sizes as what is trained further."""
    return inspect_base(final_checkpoint(base)).folder if isinstance(base, Path) else base.like if base else None


def _bytes_of(base: Path) -> int:
    """Of the weights of a diffusers folder in float32, as they are written, whatever files hold them."""
    parts = inspect_base(final_checkpoint(base)).tensors.values()
    return 4 * sum(tensor.size for tensors in parts for tensor in tensors.values())


_MOST_FINDINGS = 62


def _preset(settings: TrainSettings) -> str | None:
    return settings.preset if isinstance(settings, VaeTrain) else None


def _check_vae(settings: VaeTrain, inputs: Mapping[str, Path]) -> None:
    dataset = Dataset.open(inputs["dataset"])
    if settings.preset is not None:
        geometry = Geometry.of_preset(PRESETS[settings.preset])
    else:
        geometry = Geometry.of(final_checkpoint(inputs["base"]))
    if dataset.info.size != geometry.image_size:
        raise geometry.misfit(dataset.info.size, where=str(dataset.folder))
    _check_splits(settings, dataset.rows["split"], str(dataset.folder))


def _check_pggan(settings: PgganTrain, inputs: Mapping[str, Path]) -> None:
    """Raise UserError where it cannot learn from the Dataset."""
    dataset, size = Dataset.open(inputs["dataset"]), PGGANS[settings.preset].image_size
    if dataset.info.size != size:
        raise UserError(
            f"the images have {dataset.info.size} pixels a side, but {settings.preset} draws {size}",
            where=str(dataset.folder),
            hint=f"take another preset, or set size: {size} in the preprocess stage",
        )
    _check_splits(settings, dataset.rows["split"], str(dataset.folder))


def _check_diffusion(settings: DiffusionTrain, inputs: Mapping[str, Path]) -> list[str]:
    """Raise UserError where cache and base do not belong together. Returns the prompts of the previews."""
    cache, base = LatentCache.open(inputs["latents"]), final_checkpoint(inputs["base"])
    for role in ("latents", "prior"):
        if role in inputs:
            _check_latents(LatentCache.open(inputs[role]), base)
    _check_splits(settings, cache.rows["split"], str(cache.folder))
    if settings.preview.prompts:
        _check_preview(settings, base)
        return list(settings.preview.prompts)
    # Ties in how common prompts are go by the alphabet.
    common = cache.rows.loc[cache.rows["split"] == "train", "prompt"].value_counts().reset_index()
    ordered = common.sort_values(["count", "prompt"], ascending=[False, True])
    return ordered["prompt"].head(settings.preview.num_prompts).tolist()


def _check_latents(cache: LatentCache, base: Path) -> None:
    """Raise UserError where latents are not what the denoiser of `base` takes: another VAE's, or of another size."""
    info, geometry = cache.info, Geometry.of(base)
    if not has_vae(base, info.vae):
        raise UserError(
            "the latents were encoded by another VAE than the base's",
            where=f"{cache.folder} and {base}",
            hint="give the latents stage and this one the same base",
        )
    wanted = (geometry.latent_channels, geometry.latent_size, geometry.latent_size)
    if info.latent_shape != wanted:
        raise UserError(
            f"the latents are {_sides(info.latent_shape)}, but the base was made for {_sides(wanted)}",
            where=f"{cache.folder} and {base}",
            hint=f"encode images of {geometry.image_size} pixels a side, or take another base",
        )


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[2]} of {shape[0]} channels"


def _check_preview(settings: DiffusionTrain, base: Path) -> None:
    count = token_counter(base / "tokenizer")
    for prompt in settings.preview.prompts:
        if (num := count(prompt)) > MAX_TOKENS:
            raise UserError(
                f"a prompt has {num} tokens, CLIP reads {MAX_TOKENS}: {prompt!r}",
                where=f"stage {settings.name!r}, preview.prompts",
                hint="shorten it",
            )


def _check_classifier(settings: ClassifierTrain, inputs: Mapping[str, Path]) -> list[str]:
    """Raise UserError where it cannot learn from the Dataset. Returns the findings that it will tell."""
    dataset, preset = Dataset.open(inputs["dataset"]), CLASSIFIERS[settings.preset]
    where = f"stage {settings.name!r}"
    size = settings.image_size or dataset.info.size
    if size < preset.least_image_size:
        hint = f"set image_size: {preset.least_image_size}, or take another preset"
        what = f"{preset.name} needs images of at least {preset.least_image_size} pixels a side, not {size}"
        raise UserError(what, where=where, hint=hint)
    if settings.batch_size < preset.least_batch:
        what = f"{preset.name} cannot learn from one image a step"
        raise UserError(what, where=where, hint=f"set batch_size: {preset.least_batch} or more")
    _check_splits(settings, dataset.rows["split"], str(dataset.folder))
    return _findings(settings, dataset)


def _findings(settings: ClassifierTrain, dataset: Dataset) -> list[str]:
    names, where = dataset.findings.names, f"stage {settings.name!r}, findings"
    unknown = [name for name in settings.findings if name not in names]
    if unknown:
        raise UserError(
            f"the Dataset knows no finding {', '.join(map(repr, unknown))}",
            where=where,
            hint=f"known are: {', '.join(names)}; {NO_FINDING} is an image without any of them, and no output",
        )
    train = dataset.rows[dataset.rows["split"] == "train"]
    shown = dict(zip(names, dataset.label_matrix(train).max(axis=0).tolist(), strict=True))
    never = [name for name in settings.findings if not shown[name]]
    if never:
        raise UserError(
            f"no training image has {', '.join(never)}",
            where=where,
            hint=f"leave it out; training images have: {', '.join(name for name in names if shown[name]) or 'none'}",
        )
    found = list(settings.findings) or [name for name in names if shown[name]]
    if not found:
        raise UserError("no training image has any finding", where=str(dataset.folder), hint="give a labelled Dataset")
    return found


def _check_localiser(settings: LocaliserTrain, inputs: Mapping[str, Path]) -> list[str]:
    """Raise UserError where it cannot learn from the Dataset. Returns the findings that it will find."""
    dataset, where = Dataset.open(inputs["dataset"]), f"stage {settings.name!r}"
    if (settings.image_size or dataset.info.size) % 16:
        raise UserError(f"images of {dataset.info.size} pixels", where=where, hint="set image_size to a multiple of 16")
    _check_splits(settings, dataset.rows["split"], str(dataset.folder))
    boxed = {box["finding"] for boxes in dataset.of_split("train")["boxes"] for box in boxes}
    lacking = [name for name in settings.findings if name not in boxed]
    if lacking or not boxed:
        raise UserError(
            f"no training image has a bounding box of {', '.join(lacking) or 'any finding'}",
            where=where,
            hint="in ChestX-ray14 only test images have boxes: set move_boxed in the preprocess stage, or give more",
        )
    return list(settings.findings) or [name for name in dataset.findings.names if name in boxed]


def _check_splits(settings: TrainSettings, splits: pd.Series, where: str) -> None:
    found = set(splits)
    if "train" not in found:
        raise UserError(
            "no image is in the split train",
            where=where,
            hint="give a Dataset of a preprocess stage, some of whose patients are of train",
        )
    if settings.validation_images and "val" not in found:
        raise UserError(
            "no image is in the split val, on which the validation loss is measured",
            where=where,
            hint=f"set validation_images: 0 in stage {settings.name!r}, or hold patients out in the preprocess stage",
        )


def _checkpoint(context: Context, shard: Shard, receipt: Receipt) -> Checkpoint:
    def place(role: str) -> str:
        return receipt.path(context.folder, role).relative_to(context.folder).as_posix()

    stays = _stays(context.settings, shard)
    sha256 = {data.role: data.sha256 for data in receipt.data}
    last_row = (context.folder / place("metrics")).read_text().splitlines()[-1]
    return Checkpoint(
        step=shard.stop,
        shard=shard.id,
        path=place("checkpoint") if stays else None,
        sha256=sha256["checkpoint"] if stays else None,
        preview=place("preview") if "preview" in sha256 else None,
        metrics=place("metrics"),
        validation_loss=json.loads(last_row)["validation_loss"],
    )
