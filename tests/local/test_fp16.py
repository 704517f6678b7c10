"""fp16: the scale of the loss, steps that overflow, resume, and the attention of Stable Diffusion 2.x."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.presets import NANO
from cxr_core.runs.files import read_json, sha256_path
from cxr_core.runs.progress import bar
from cxr_core.training.engine import Engine
from tests.training import diffusion_stage, diffusion_task, finish, finish_afresh, metrics

HALF = {"precision": "fp16", "ema_decay": None}


def train(engine: Engine, stop: int) -> list[dict[str, Any]]:
    with bar("test", stop) as progress:
        return engine.train(stop, progress)


def make_engine(latents: Path, base: Path, **values: Any) -> Engine:
    task = diffusion_task(latents, base, **{**HALF, **values})
    return Engine(task, task.settings)


def scale_by(engine: Engine, scale: float) -> None:
    engine.scaler.load_state_dict(engine.scaler.state_dict() | {"scale": scale})


def test_given_fp16_losses_are_close_to_fp32_and_weights_stay_fp32(nano_latents: Path, nano_base: Path) -> None:
    half = make_engine(nano_latents, nano_base)
    whole = make_engine(nano_latents, nano_base, precision="fp32")
    seen = []
    half.task.module.unet.conv_out.register_forward_hook(lambda *found: seen.append(found[-1].dtype))
    rows, exact = train(half, 4), train(whole, 4)
    assert set(seen) == {torch.float16}
    assert {parameter.dtype for parameter in half.parameters.values()} == {torch.float32}
    assert [row["loss"] for row in rows] != [row["loss"] for row in exact]
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in exact], rel=0.02)
    assert [row["loss_scale"] for row in rows] == [2.0**16] * 4
    assert "loss_scale" not in exact[0]


def test_given_a_gradient_that_overflows_the_step_is_left_out_and_the_loss_is_scaled_less(
    nano_latents: Path, nano_base: Path
) -> None:
    engine = make_engine(nano_latents, nano_base)
    scale_by(engine, 2.0**34)
    before = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    (row,) = train(engine, 1)
    assert row["grad_norm"] is None
    assert row["loss"] > 0
    assert all(torch.equal(before[name], parameter) for name, parameter in engine.parameters.items())
    assert engine.scaler.get_scale() == 2.0**33
    rows = train(engine, 20)
    assert rows[-1]["grad_norm"] > 0
    assert rows[-1]["loss_scale"] < 2.0**33
    assert not torch.equal(before["unet.conv_in.weight"], engine.parameters["unet.conv_in.weight"])


def test_given_a_gradient_that_is_not_finite_even_unscaled_training_stops(nano_latents: Path, nano_base: Path) -> None:
    engine = make_engine(nano_latents, nano_base)
    engine.parameters["unet.conv_in.weight"].register_hook(lambda gradient: gradient * float("nan"))
    scale_by(engine, 4.0)
    with pytest.raises(UserError, match=r"its gradient's norm nan at step 3, on train-\d+"):
        train(engine, 3)


def test_given_every_shard_in_a_new_process_fp16_resumes_bit_for_bit_with_its_scale(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    values = HALF | {"train_text_encoder": False}
    undisturbed = finish(diffusion_stage(tmp_path / "whole", nano_latents, nano_base, **values))
    again = finish_afresh(diffusion_stage(tmp_path / "again", nano_latents, nano_base, **values))
    assert metrics(again) == metrics(undisturbed)
    assert sha256_path(final_checkpoint(again)) == sha256_path(final_checkpoint(undisturbed))
    state = next((undisturbed / "shards").glob("*.state")) / "state.json"
    assert read_json(state)["scaler"]["_growth_tracker"] == 6


# Attention


class Seen(TorchFunctionMode):
    """In which formats attention was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.dtype, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.found.append((args[0].dtype, torch.is_autocast_enabled("cpu")))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def linear_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of nano size, with the linear projections of Stable Diffusion 2.x."""
    preset = dataclasses.replace(NANO, unet={**NANO.unet, "use_linear_projection": True})
    folder = tmp_path_factory.mktemp("linear") / "base"
    stable_diffusion.save(stable_diffusion.build(preset, seed=3), folder)
    return folder


@pytest.mark.parametrize("checkpointing", [True, False])
def test_given_a_base_like_sd2_its_attention_is_computed_in_fp32_in_both_passes(
    nano_latents: Path, nano_base: Path, linear_base: Path, *, checkpointing: bool
) -> None:
    formats = {}
    for base in (nano_base, linear_base):
        values = {"gradient_checkpointing": checkpointing, "train_text_encoder": False}
        engine = make_engine(nano_latents, base, **values)
        engine.task._errors(engine.module, engine.task.batch(0, range(4)))  # encodes the prompts, once
        with Seen() as seen:
            train(engine, 1)
        formats[base] = seen.found
    assert set(formats[linear_base]) == {(torch.float32, False)}
    assert set(formats[nano_base]) == {(torch.float16, True)}
    assert len(formats[linear_base]) == len(formats[nano_base])


def test_given_a_base_like_sd2_xformers_in_fp16_is_refused(nano_latents: Path, linear_base: Path) -> None:
    with pytest.raises(UserError, match=r"attention \(Stable Diffusion 2.x\) overflows in fp16, and xformers"):
        diffusion_task(nano_latents, linear_base, attention="xformers", **HALF)
