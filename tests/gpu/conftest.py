"""What these tests need of the machine, and the fixtures of tests/local that they share."""

import pytest
import torch

from tests.conftest import require
from tests.local.conftest import nano_base, nano_latents

__all__ = ["nano_base", "nano_latents"]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no CUDA device")
