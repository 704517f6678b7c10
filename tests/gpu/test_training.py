"""Training on a GPU beside the CPU, and the rows G1 and G3: `pytest -m gpu tests/gpu`, some minutes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from cxr_core.data.dataset import Dataset
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.stable_diffusion import load, save
from cxr_core.training.encode import encode_moments, encode_rows
from tests.gan_ranks import dataset, gan_stage
from tests.gpu.rows import Bench, g1, g3
from tests.training import diffusion_stage, finish, finish_afresh, losses

__all__ = ["dataset"]

pytestmark = pytest.mark.gpu

CLOSE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.02}
"""How far losses may be from those of the CPU: convolutions on a GPU compute in TF32 in place of fp32."""


@pytest.fixture(scope="session")
def of_cpu(nano_latents: Path, nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    # accelerate asks once a process which device there is.
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        stage = finish(diffusion_stage(tmp_path_factory.mktemp("cpu") / "stage", nano_latents, nano_base))
    AcceleratorState._reset_state(reset_partial_state=True)
    return losses(stage)


@pytest.mark.parametrize("precision", list(CLOSE))
def test_given_a_gpu_losses_are_those_of_the_cpu_and_the_checkpoint_opens_there(
    tmp_path: Path, nano_latents: Path, nano_base: Path, of_cpu: list[float], precision: str
) -> None:
    stage = finish(diffusion_stage(tmp_path / "stage", nano_latents, nano_base, precision=precision))
    assert losses(stage) == pytest.approx(of_cpu, rel=CLOSE[precision])
    assert load(final_checkpoint(stage)).unet.device.type == "cpu"


def test_given_every_shard_in_a_new_process_losses_go_on_as_they_would(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    """Sums of a GPU may come in another order each time."""
    whole = finish(diffusion_stage(tmp_path / "whole", nano_latents, nano_base))
    again = finish_afresh(diffusion_stage(tmp_path / "again", nano_latents, nano_base))
    assert losses(again) == pytest.approx(losses(whole), rel=1e-4)


def test_given_a_model_too_large_for_half_precision_the_cache_is_computed_in_full(
    tmp_path: Path, nano_base: Path, dataset: Path
) -> None:
    base, work, real = tmp_path / "base", tmp_path / "work", Dataset.open(dataset)
    pipeline = load(nano_base)
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.mul_(1e6)
    save(pipeline, base)
    work.mkdir()
    encode_rows(base, real, real.rows.head(4).assign(prompt="x"), 4, work, dtype="float16", threads=2)
    assert np.isfinite(np.load(work / "moments.npy")).all()


@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (2, "bf16"), (3, "fp32")])
def test_given_one_rank_over_nccl_losses_are_those_of_one_process(
    tmp_path: Path, nano_latents: Path, nano_base: Path, zero: int, precision: str
) -> None:
    if zero:
        pytest.importorskip("deepspeed")
    alone = finish(diffusion_stage(tmp_path / "alone", nano_latents, nano_base, precision=precision))
    ranks = {"per_node": 1, "zero": zero}
    rank = finish(diffusion_stage(tmp_path / "rank", nano_latents, nano_base, precision=precision, ranks=ranks))
    assert losses(rank) == pytest.approx(losses(alone), rel=CLOSE[precision])
    (measured,) = (json.loads(path.read_text()) for path in rank.glob("attempts/*/ranks/preflight.json"))
    print(measured)
    assert "gloo" not in measured["transport"]


def test_given_a_cache_of_half_precision_its_moments_are_near_those_of_the_cpu(
    nano_latents: Path, nano_base: Path, dataset: Path
) -> None:
    images = Dataset.open(dataset).images(Dataset.open(dataset).rows.head(8))
    vae = load(nano_base).vae.eval()
    here = encode_moments(vae, images)
    there = encode_moments(vae.to("cuda", torch.float16), images)
    assert (there - here).norm() < 5e-3 * here.norm()


def test_given_a_pggan_its_losses_are_those_of_one_rank_and_near_those_in_half_precision(
    tmp_path: Path, dataset: Path
) -> None:
    kinds: dict[str, Any] = {"alone": {}, "rank": {"ranks": {"per_node": 1}}, "bf16": {"precision": "bf16"}}
    alone, rank, half = (losses(finish(gan_stage(tmp_path / name, dataset, **kinds[name]))) for name in kinds)
    assert rank == pytest.approx(alone, rel=0.01, abs=0.01)
    assert half == pytest.approx(alone, rel=0.2, abs=0.2)


def test_given_xformers_losses_are_those_of_sdpa(tmp_path: Path, nano_latents: Path, nano_base: Path) -> None:
    pytest.importorskip("xformers")
    ours, theirs = (
        finish(diffusion_stage(tmp_path / name, nano_latents, nano_base, attention=name))
        for name in ("sdpa", "xformers")
    )
    assert losses(theirs) == pytest.approx(losses(ours), rel=0.01)


def test_g1_training_on_cached_latents_is_twice_as_fast_as_a_script(tmp_path: Path) -> None:
    batch = 64 if torch.cuda.get_device_properties(0).total_memory > 100e9 else 32
    eager, compiled, script = g1(Bench(tmp_path, batch=batch))
    print("", eager.line(), compiled.line(), script.line(), sep="\n")
    assert max(eager.images_per_second, compiled.images_per_second) >= 2 * script.images_per_second


def test_g3_the_latent_cache_is_built_three_times_as_fast_as_in_a_loop(tmp_path: Path) -> None:
    product, loop = g3(Bench(tmp_path))
    print("", product.line(), loop.line(), sep="\n")
    assert product.images_per_second >= 3 * loop.images_per_second
