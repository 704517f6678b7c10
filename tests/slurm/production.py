"""Synthetic images on a cluster whose nodes are taken away: a generate stage of a very small model, preempted."""

import time
from pathlib import Path

from cxr_core.models.presets import NANO
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.run import Run, StageFolder
from tests.pipeline import cxr
from tests.planted import planted_rows, write_planted
from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun

CONFIG = """\
name: tiny
seed: 5
stages:
  - name: syn
    kind: generate
    threads: 1
    inputs: {{model: "{model}", like: "{folder}/planted"}}
    request: {{like: train, num_images: {num_images}}}
    denoising_steps: 4
    guidance: 1
    batch_size: {batch_size}
    shard_size: {shard_size}
"""

PROFILE = """\
inherits: base
partition: low
mem: 1900M
array_parallelism: 4
task_minutes: {minutes}
visible_seconds: 2
grace_seconds: 40
stages:
  generate: {{seconds_per_item: 0.01, time: "01:00:00", gpus_per_node: 0}}
"""


class Production(TinyRun):
    """A run that draws `num_images` in `num_tasks` tasks of a preempted partition; by default from a nano model."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        num_images: int,
        shard_size: int,
        num_tasks: int,
        model: str | None = None,
    ) -> None:
        from cxr_core.models.stable_diffusion import build, save

        if model is None:
            save(build(NANO, seed=0), folder / "model")
        write_planted(folder / "planted", planted_rows(60))
        config = folder / "production.yaml"
        sizes = {"num_images": num_images, "shard_size": shard_size, "batch_size": shard_size // 2}
        config.write_text(CONFIG.format(folder=folder, model=model or folder / "model", **sizes))
        super().__init__(cluster, folder, config=config)
        self.profile.write_text(PROFILE.format(minutes=0.01 * num_images / num_tasks / 60))

    @property
    def stage(self) -> StageFolder:
        return Run.open(self.root).stage("syn")

    def preempt_often(self, num_preemptions: int, *, every: float) -> int:
        """Take the node of a task that has begun a shard, so often and so many seconds apart, until the run is done."""
        done = 0
        while done < num_preemptions and self.stage.facts() is None:
            live = [a for a in read_attempts(self.stage.path) if a.outcome == "running" and a.shard and a.node]
            if not live:
                time.sleep(0.2)
                continue
            words = ("--partition=high", f"--nodelist={live[-1].node}", "--exclusive", *self.charged)
            self.cluster.wait(self.cluster.sbatch("sleep 1", "--job-name=preempts", *words))
            done += 1
            time.sleep(every)
        return done

    def undisturbed(self) -> str:
        """The digest of the same run in this machine's own process, which nothing happens to."""
        done = cxr("run", self.config, "--runs", self.folder / "undisturbed", timeout=7200)
        assert done.returncode == 0, done.stderr
        facts = Run.open(self.folder / "undisturbed" / "tiny").stage("syn").facts()
        assert facts is not None
        return str(facts["digest"])

    def told(self) -> str:
        """Where the time went."""
        facts = self.stage.facts()
        assert facts is not None
        attempts = read_attempts(self.stage.path)
        causes = sorted({attempt.cause or attempt.outcome for attempt in attempts})
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["parts"].items())
        return (
            f"{facts['num_images']:,} images in {facts['num_shards']} shards, {len(attempts)} starts of tasks "
            f"({'; '.join(causes)})\nseconds of all shards together: {parts}; finalize {facts['seconds']['finalize']} s"
        )
