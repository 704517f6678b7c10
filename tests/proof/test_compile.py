"""Training with a compiled UNet, of nano size on the CPU; `make proof TARGET=compile`, minutes of compiling."""

import time
from pathlib import Path

import pytest

from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.files import sha256_path
from tests.local.conftest import nano_base, nano_latents
from tests.training import diffusion_stage, finish, finish_afresh, losses, metrics

__all__ = ["nano_base", "nano_latents"]

pytestmark = pytest.mark.proof


def test_given_compile_losses_are_those_of_eager_checkpoints_open_and_a_new_process_goes_on_bit_for_bit(
    tmp_path: Path, nano_latents: Path, nano_base: Path
) -> None:
    seconds, stages = {}, {}
    for name in ("eager", "compiled"):
        start = time.monotonic()
        stages[name] = finish(diffusion_stage(tmp_path / name, nano_latents, nano_base, compile=name == "compiled"))
        seconds[name] = time.monotonic() - start
    print(f"\n6 steps with checkpoints: {seconds['eager']:.0f} s eager, {seconds['compiled']:.0f} s compiled")
    print(f"losses {losses(stages['eager'])} eager, {losses(stages['compiled'])} compiled")
    assert losses(stages["compiled"]) == pytest.approx(losses(stages["eager"]), rel=1e-4)
    folders = {name: final_checkpoint(stage) for name, stage in stages.items()}
    weights = {name: stable_diffusion.load(folder).unet.state_dict() for name, folder in folders.items()}
    assert weights["compiled"].keys() == weights["eager"].keys()

    again = finish_afresh(diffusion_stage(tmp_path / "again", nano_latents, nano_base, compile=True))
    assert metrics(again) == metrics(stages["compiled"])
    assert sha256_path(final_checkpoint(again)) == sha256_path(folders["compiled"])
