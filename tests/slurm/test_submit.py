"""`cxr submit`, `resume` and `cancel` on a real cluster."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submit_folders
from tests.pipeline import copy_until, cxr, stage_folder
from tests.slurm.cluster import Cluster

PROFILE = """\
inherits: base
partition: low
mem: 900M
array_parallelism: 4
pack_minutes: 0.05
visible_seconds: 3
grace_seconds: 40
stages:
  generate: {seconds_per_item: 0.05}
  evaluate: {seconds_per_item: 0.3}
"""
"""Packs of three seconds, so that stages are arrays of several tasks."""

HOSTILE = "a space, 'a quote\" and\na newline"


class Site:
    """A user on the cluster: a profile, a folder for runs, and the command with the cluster's environment."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.runs = folder / HOSTILE
        self.profile = folder / "site.yaml"
        self.profile.write_text(PROFILE)
        self.env = dict(cluster.env)

    def cxr(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return cxr(*words, env=self.env)

    def submit(self, config: Path, *words: str) -> subprocess.CompletedProcess[str]:
        done = self.cxr("submit", config, "--cluster", self.profile, "--runs", self.runs, *words)
        assert done.returncode == 0, done.stderr
        return done

    def queue(self) -> list[str]:
        """Names of the jobs that have not ended."""
        return self.cluster.run("squeue", "--noheader", "--format=%j").stdout.split()

    def wait(self, seconds: float = 240) -> None:
        self.cluster.until("the queue is empty", lambda: not self.queue(), seconds)

    def logs(self) -> str:
        files = sorted((self.runs / "nano").glob("*/submits/*/*.out"))
        return "\n".join(f"--- {file.parent.parent.parent.name}/{file.name}\n{file.read_text()}" for file in files)

    def facts(self, stage: str) -> dict[str, object]:
        found = stage_folder(self.runs, stage).facts()
        assert found is not None, self.logs()
        return found

    def submits(self, stage: str) -> list[Submit]:
        return [Submit.read(folder) for folder in submit_folders(stage_folder(self.runs, stage).path)]


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, tmp_path)
    cluster.run("scancel", "--user=root", check=False)
    cluster.until("the queue is empty", lambda: not cluster.run("squeue", "--noheader").stdout)


def digests(runs: Path) -> dict[str, str]:
    run = Run.open(runs / "nano")
    return {
        stage["name"]: json.loads((run.root / stage["name"] / "stage.json").read_text())["digest"]
        for stage in run.config["stages"]
    }


def test_given_a_whole_run_submitted_in_a_hostile_folder_then_its_digests_are_those_of_the_run_in_process(
    site: Site, nano_config: Path, undisturbed: Path
) -> None:
    site.env |= {"SLURM_NTASKS": "7", "SLURM_CPUS_PER_TASK": "9", "SBATCH_PARTITION": "none"}
    site.submit(nano_config)
    jobs = sorted(site.queue())
    again = site.submit(nano_config)
    assert "in the queue already: " in again.stdout
    assert "nothing to submit" in again.stdout
    assert sorted(site.queue()) <= jobs
    site.wait()
    for stage in ("real", "vae", "latents", "diffusion", "synthetic", "study"):
        site.facts(stage)
    assert digests(site.runs) == digests(undisturbed)
    (shards, finalize) = site.submits("real")
    assert shards.num_tasks == 4
    assert finalize.waits_for == [shards.job_id]
    (chain,) = site.submits("vae")
    assert chain.does == ("freeze", "shards", "finalize")
    assert len(list(submit_folders(stage_folder(site.runs, "vae").path)[0].iterdir())) <= 5
    done = site.submit(nano_config)
    assert "nothing to submit" in done.stdout
