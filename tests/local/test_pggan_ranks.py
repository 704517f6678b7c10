"""A PG-GAN trained on two real ranks over gloo: the losses and weights of one process, and a rank that dies."""

import shutil
import signal
from pathlib import Path

from cxr_core.models.checkpoints import checkpoint_at, read_checkpoints
from cxr_core.models.pggan_folder import read_info
from cxr_core.runs.files import read_json, sha256_path
from cxr_core.training.rendezvous import words_of
from tests.gan_ranks import STEPS, assert_alike, dataset, gan_stage
from tests.ranks import beat, failure, signalled
from tests.training import finish, metrics

__all__ = ["dataset"]

RANKS = {"per_node": 2, "all_reduce_mib": 1, "silent_seconds": 60}


def test_given_two_ranks_and_a_kill_losses_and_weights_are_those_of_one_process_and_of_two_undisturbed(
    dataset: Path, tmp_path: Path
) -> None:
    alone, two, killed, fewer = (tmp_path / name for name in ("alone", "two", "killed", "fewer"))
    finish(gan_stage(alone, dataset))
    finish(gan_stage(two, dataset, ranks=RANKS))
    positions = [read_info(checkpoint_at(alone, step)) for step in STEPS]
    assert [(at.size, at.fade) for at in positions] == [(4, 1.0), (8, 1.0), (16, 0.75), (16, 1.0)]
    assert_alike(two, alone)

    with signalled(killed, 1, signal.SIGKILL, after="00001"):
        error = failure(gan_stage(killed, dataset, ranks=RANKS))
    assert f"(process {beat(killed, 1)['pid']}) was killed by signal 9 (SIGKILL)" in str(error)
    measured = read_json(next(killed.glob("attempts/*/ranks/preflight.json")))
    assert words_of(measured).startswith("2 ranks on 1 node, gloo, TCP, 1 MiB summed over all at ")
    shutil.copytree(killed, fewer)
    finish(gan_stage(killed, dataset, ranks=RANKS))
    assert metrics(killed) == metrics(two)
    digests = [[sha256_path(folder / each.path) for each in read_checkpoints(folder)] for folder in (killed, two)]
    assert digests[0] == digests[1]
    # Two ranks, then one process.
    assert_alike(finish(gan_stage(fewer, dataset)), alone)
