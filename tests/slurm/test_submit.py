"""`cxr submit`, `resume` and `cancel` on a real cluster."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submit_folders
from tests.pipeline import cxr, stage_folder
from tests.slurm.cluster import Cluster

PROFILE = """\
inherits: base
partition: low
mem: 900M
array_parallelism: 4
task_minutes: 0.05
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

    def resume(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.cxr("resume", self.runs / "nano", "--cluster", self.profile, *words)

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
    jobs = set(site.queue())
    again = site.submit(nano_config)
    assert "in the queue already: " in again.stdout
    assert "nothing to submit" in again.stdout
    assert set(site.queue()) <= jobs
    site.wait()
    for stage in ("real", "vae", "latents", "diffusion", "synthetic", "study"):
        site.facts(stage)
    assert digests(site.runs) == digests(undisturbed)
    (shards, finalize) = site.submits("real")
    assert shards.num_tasks == 4
    assert finalize.waits_for == (shards.job_id,)
    (chain,) = site.submits("vae")
    assert chain.does == ("freeze", "shards", "finalize")
    assert len(list(submit_folders(stage_folder(site.runs, "vae").path)[0].iterdir())) <= 5
    done = site.submit(nano_config)
    assert "nothing to submit" in done.stdout


def only_real(config: Path, site: Site, at_once: int = 4) -> None:
    """Submit the first stage: 12 shards in 4 tasks, and the job that finalizes."""
    site.profile.write_text(PROFILE.replace("array_parallelism: 4", f"array_parallelism: {at_once}"))
    site.submit(config, "--stage", "real")


def assert_as_undisturbed(site: Site, undisturbed: Path) -> None:
    there = stage_folder(undisturbed, "real").facts()
    assert there is not None
    assert site.facts("real")["digest"] == there["digest"]


def test_given_a_launcher_that_died_before_the_answer_then_submitting_again_finds_its_job(
    site: Site, nano_config: Path
) -> None:
    only_real(nano_config, site, at_once=1)
    folder = submit_folders(stage_folder(site.runs, "real").path)[0]
    known = Submit.read(folder)
    replace(known, job_id=None).write(folder)
    again = site.submit(nano_config, "--stage", "real")
    assert "nothing to submit" in again.stdout
    assert Submit.read(folder).job_id == known.job_id


def test_given_a_warning_then_the_task_stops_is_requeued_and_the_digest_is_the_same(
    site: Site, nano_config: Path, undisturbed: Path
) -> None:
    only_real(nano_config, site)
    job = site.submits("real")[0].job_id
    flags = submit_folders(stage_folder(site.runs, "real").path)[0]
    site.cluster.until("a task has begun", lambda: any(flags.glob(f"{job}_0-0.flag")))
    time.sleep(0.3)
    site.cluster.run("scancel", "--signal=USR2", "--batch", f"{job}_0")
    site.wait()
    assert_as_undisturbed(site, undisturbed)
    attempts = stage_folder(site.runs, "real").path / "attempts"
    ends = {path.name.rsplit("-", 1)[0]: json.loads((path / "ended.json").read_text()) for path in attempts.iterdir()}
    assert ends[f"{job}_0-0"]["cause"] == "stopped"
    assert ends[f"{job}_0-1"]["cause"] == "finished"


def test_given_a_cancelled_task_then_what_is_missing_is_named_and_resume_makes_only_that(
    site: Site, nano_config: Path, undisturbed: Path
) -> None:
    site.profile.write_text(PROFILE.replace("array_parallelism: 4", "array_parallelism: 1"))
    site.submit(nano_config)
    job = site.submits("real")[0].job_id
    site.cluster.run("scancel", f"{job}_3")
    busy = site.resume()
    assert busy.returncode == 2
    assert f"still in the queue: {job}, " in busy.stderr
    assert site.resume("--if-needed").returncode == 0
    site.wait()
    assert "stage 'real' lacks 3 of 12 shards: 00009, 00010, 00011" in site.logs()
    assert "cxr resume " in site.logs()
    site.profile.write_text(PROFILE)
    done = site.resume()
    assert done.returncode == 0, done.stderr
    packs = [submit.packs for submit in site.submits("real") if submit.packs][-1]  # as many as their time asks for
    assert [shard for pack in packs for shard in pack] == ["00009", "00010", "00011"]
    site.cluster.until("the stage is finished", lambda: stage_folder(site.runs, "real").facts() is not None)
    assert_as_undisturbed(site, undisturbed)
    cancelled = site.cxr("cancel", site.runs / "nano")
    assert "cancelled: " in cancelled.stdout
    site.wait(30)
    assert "no job of this run is in the queue" in site.cxr("cancel", site.runs / "nano").stdout


def test_given_a_partition_that_does_not_exist_then_sbatch_is_quoted_and_nothing_is_queued(
    site: Site, nano_config: Path
) -> None:
    site.profile.write_text(PROFILE.replace("partition: low", "partition: nowhere"))
    done = site.cxr("submit", nano_config, "--cluster", site.profile, "--runs", site.runs)
    assert done.returncode == 2
    assert "invalid partition specified: nowhere" in done.stderr
    assert "-> correct the profile of the cluster" in done.stderr
    assert not site.queue()
