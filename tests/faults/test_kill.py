"""kill -9 at seeded random moments: the run goes on as if nothing had happened, to the last bit."""

from pathlib import Path

import pytest

from tests.pipeline import copy_until, kill_at_random_moments, losses, run_nano, stage_folder


def survive(config: Path, undisturbed: Path, runs: Path, stage: str, *, num_kills: int, seed: int) -> list[int]:
    """Kill the stage again and again, let it finish, and compare it with the undisturbed one."""
    copy_until(undisturbed, runs, stage)
    seen = kill_at_random_moments(config, runs, stage, num_kills=num_kills, seed=seed)
    run_nano(config, runs, "--stage", stage)
    there, here = stage_folder(undisturbed, stage), stage_folder(runs, stage)
    first, second = there.facts(), here.facts()
    assert first is not None
    assert second is not None
    assert second["digest"] == first["digest"]
    assert [r.digest for r in here.receipts()] == [r.digest for r in there.receipts()]
    if stage in ("vae", "diffusion"):
        assert losses(here) == losses(there)
    strays = {entry.name for entry in (here.path / "shards").iterdir()}
    assert strays <= {data.name for receipt in here.receipts() for data in receipt.data}
    return seen


@pytest.mark.parametrize("stage", ["real", "diffusion", "synthetic"])
def test_given_three_kills_then_the_stage_ends_like_the_undisturbed_one(
    stage: str, nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    seen = survive(nano_config, undisturbed, tmp_path, stage, num_kills=3, seed=11)
    assert seen == sorted(seen)
    assert seen[0] < len(stage_folder(undisturbed, stage).receipts()), "every kill came after the work was done"
