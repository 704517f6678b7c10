"""Ten kills of each stage that does long work; `make proof TARGET=kill`."""

from pathlib import Path

import pytest

from tests.faults.test_kill import survive

pytestmark = pytest.mark.proof


@pytest.mark.parametrize("stage", ["real", "vae", "diffusion", "synthetic"])
def test_given_ten_kills_then_the_stage_ends_like_the_undisturbed_one(
    stage: str, nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    seen = survive(nano_config, undisturbed, tmp_path, stage, num_kills=10, seed=101)
    print(f"\n{stage}: receipts there at each kill: {seen}; same digests and losses as undisturbed")
