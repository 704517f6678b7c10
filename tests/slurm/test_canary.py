"""`cxr submit --canary` on a real cluster: one shard goes first, its time prices the rest, and its failure ends it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[TinyRun]:
    run = TinyRun(cluster, tmp_path)
    yield run
    cluster.run("scancel", "--user=root", check=False)
    cluster.until("the queue is empty", lambda: not run.queue())


def test_given_a_guess_that_is_too_high_then_the_first_shard_says_so_and_the_rest_is_one_task(
    run: TinyRun, tiny_digest: str
) -> None:
    run.write_profile(minutes=4)
    run.profile.write_text(run.profile.read_text().replace("seconds_per_item: 1", "seconds_per_item: 30"))
    done = run.cxr("submit", run.config, "--cluster", run.profile, "--runs", run.runs, "--canary")
    assert done.returncode == 0, done.stderr
    assert re.search(r"canary of real: a shard took [\d.]+ s on n\d; guessed were 60\.00 s", done.stdout)
    canary, rest = run.submits
    assert (canary.does, canary.packs) == (("canary",), [["00000"]])
    assert (rest.does, rest.num_tasks) == (("shards", "finalize"), 1)
    assert [len(pack) for pack in rest.packs or ()] == [23]
    run.wait()
    run.assert_whole(tiny_digest)


def test_given_a_first_shard_that_fails_then_its_cause_is_told_and_nothing_else_is_sent(run: TinyRun) -> None:
    image = run.folder / "images" / "00001.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    words = ("submit", run.config, "--cluster", run.profile, "--runs", run.runs, "--canary")
    done = run.cxr(*words)
    assert done.returncode == 2
    assert "the canary of stage 'real' failed: " in done.stderr
    assert "00001.png" in done.stderr
    assert "nothing else was sent" in done.stderr
    assert [submit.does for submit in run.submits] == [("canary",)]
    assert not run.queue()
    image.write_bytes(whole)
    again = run.cxr(*words)
    assert again.returncode == 0, again.stderr
    assert "guessed were" in again.stdout


def test_given_jobs_in_the_queue_then_inputs_are_not_taken_anew_under_them(run: TinyRun) -> None:
    run.profile.write_text(run.profile.read_text() + 'sbatch: ["--hold"]\n')
    words = ("submit", run.config, "--cluster", run.profile, "--runs", run.runs)
    assert run.cxr(*words).returncode == 0
    table = run.folder / "table.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    done = run.cxr(*words, "--canary", "--take-inputs")
    assert done.returncode == 2
    assert "jobs of this run are in the queue" in done.stderr
    assert not list(run.runs.glob("*/*/quarantine"))
