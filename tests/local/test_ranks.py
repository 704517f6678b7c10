"""Training on two real ranks over gloo with DeepSpeed: the losses of one process, and ranks that die or hang."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from cxr_core.runs.files import read_json
from tests.ranks import RANKS, TOLERANCE, alone, beat, fail, given, is_alive, signalled, train, weights
from tests.training import losses

__all__ = ["alone", "given"]


def test_given_ranks_that_hang_or_die_then_it_is_said_which_and_the_curve_is_that_of_one_process(
    given: tuple[Path, Path], alone: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    with signalled(stage, 1, signal.SIGSTOP, after="00000"):
        error = fail(stage, given, RANKS)
    stopped = beat(stage, 1)
    assert re.search(rf"rank 1 on \S+ \(process {stopped['pid']}\) was not heard for 2\d s", str(error))
    assert time.time() - stopped["time"] < RANKS["silent_seconds"] + 20
    assert not any(is_alive(beat(stage, rank)["pid"]) for rank in (0, 1))

    with signalled(stage, 1, signal.SIGKILL, after="00001"):
        error = fail(stage, given, RANKS)
    assert f"rank 1 on {os.uname().nodename} (process {beat(stage, 1)['pid']}) was killed by signal 9 (SIGKILL)" in str(
        error
    )
    assert "goes on from the last checkpoint" in str(error)
    failures = [read_json(path) for path in stage.glob("attempts/*/failed/*.json")]
    assert sorted(failure["cause"] for failure in failures) == ["signal", "timeout"]

    # And to the end in one process, without DeepSpeed: the checkpoint is the same file.
    assert losses(train(stage, given)) == pytest.approx(losses(alone), rel=TOLERANCE)
    for name, value in weights(alone).items():
        assert torch.allclose(weights(stage)[name], value, rtol=1e-3, atol=1e-4), name
    measured = [json.loads(path.read_text()) for path in stage.glob("attempts/*/ranks/preflight.json")]
    assert [(each["ranks"], each["transport"], each["mib"]) for each in measured] == [(2, "gloo, TCP", 4)] * 2
    assert all(each["gib_per_second"] > 0 for each in measured)
