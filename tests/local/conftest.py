"""A nano model of random weights and the latents of a few planted images: what tests of training methods share.

What needs torch is imported by the fixtures, since most tests of this folder do not.
"""

from pathlib import Path

import pytest

from tests.planted import planted_rows, write_planted


@pytest.fixture(scope="session")
def nano_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of nano size, from random weights."""
    from cxr_core.models import stable_diffusion
    from cxr_core.models.presets import NANO

    folder = tmp_path_factory.mktemp("base") / "nano"
    stable_diffusion.save(stable_diffusion.build(NANO, seed=3), folder)
    return folder


@pytest.fixture(scope="session")
def nano_latents(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of 12 training and 6 validation images by `nano_base`; every other one has Effusion."""
    from tests.training import SIZE, finish, latents_stage, prompted

    folder = tmp_path_factory.mktemp("latents")
    rows = prompted(planted_rows(12) + planted_rows(6, split="val"))
    return finish(latents_stage(folder / "latents", write_planted(folder / "real", rows, size=SIZE).folder, nano_base))


@pytest.fixture(scope="session")
def nano_prior(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of 5 synthetic images by `nano_base`."""
    from tests.training import SIZE, finish, latents_stage, prompted

    folder = tmp_path_factory.mktemp("prior")
    rows = prompted(planted_rows(5, split="synthetic"))
    dataset = write_planted(folder / "made", rows, size=SIZE, synthetic=True)
    return finish(latents_stage(folder / "latents", dataset.folder, nano_base))
