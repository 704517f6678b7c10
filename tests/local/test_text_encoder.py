"""A text encoder that learns the words of prompts from texts alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import jobs.train
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint, read_checkpoints, vae_sha256
from cxr_core.models.presets import NANO
from cxr_core.runs.files import sha256_file, sha256_path
from cxr_core.runs.pack import Work
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.training.settings import TextEncoderTrain
from cxr_core.training.text_encoder import TextEncoderTask
from tests.training import finish, finish_afresh

STEPS = 120


def settings(**values: Any) -> TextEncoderTrain:
    given = {"steps": STEPS, "batch_size": 16, "checkpoint_every": 60, "learning_rate": 5e-3, "ema_decay": None}
    common = {"name": "words", "kind": "train", "model": "text_encoder", "inputs": {"base": "b"}, "threads": 1}
    return TextEncoderTrain(**{**common, "validation_images": 64, **given, **values})


def stage(folder: Path, base: Path) -> Work:
    folder.mkdir()
    return Work(StageFolder(folder), jobs.train, Context(settings(), {"base": base}, 11, folder), {})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "nano"
    stable_diffusion.save(stable_diffusion.build(NANO, 3), folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(stage(tmp_path_factory.mktemp("run") / "words", base))


@torch.no_grad()
def spread_of_findings(folder: Path) -> float:
    """How far prompts that differ in a finding alone lie apart behind their ends, per length of what they share."""
    pipeline = stable_diffusion.load(folder)
    prompts = [f"frontal chest x-ray, PA view, {finding}" for finding in ("mass", "pneumothorax", "emphysema")]
    last = pipeline.text_encoder(stable_diffusion.tokenize(pipeline.tokenizer, prompts))[0][:, -1]
    shared = last.mean(dim=0)
    return float((last - shared).norm(dim=1).mean() / shared.norm())


def test_given_a_trained_text_encoder_the_word_of_a_finding_shows_in_outputs_far_behind_it(
    base: Path, trained: Path
) -> None:
    assert spread_of_findings(final_checkpoint(trained)) > 5 * spread_of_findings(base)


def test_given_training_the_loss_on_other_texts_falls(trained: Path) -> None:
    first, last = (checkpoint.validation_loss for checkpoint in read_checkpoints(trained))
    assert first is not None
    assert last is not None
    assert last < first
    row = json.loads((trained / read_checkpoints(trained)[-1].metrics).read_text().splitlines()[-1])
    assert 0 <= row["texts_told"] <= 1


def test_given_training_of_the_text_encoder_the_other_parts_stay_as_they_were(base: Path, trained: Path) -> None:
    after = final_checkpoint(trained)
    assert vae_sha256(after) == vae_sha256(base)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert sha256_file(after / unet) == sha256_file(base / unet)
    text_encoder = "text_encoder/model.safetensors"
    assert sha256_file(after / text_encoder) != sha256_file(base / text_encoder)


def test_given_every_interval_in_a_new_process_the_weights_are_those_of_one_process_bit_for_bit(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    again = finish_afresh(stage(tmp_path / "words", base))
    assert sha256_path(final_checkpoint(again)) == sha256_path(final_checkpoint(trained))


def test_given_a_step_its_texts_are_always_the_same_and_differ_from_those_of_another(base: Path) -> None:
    task = TextEncoderTask(stable_diffusion.load(base), settings(), 5)
    assert task.examples(7) == task.examples(7)
    assert task.examples(7) != task.examples(8)
    assert any(text.startswith("frontal chest x-ray") for text in task.examples(7))
