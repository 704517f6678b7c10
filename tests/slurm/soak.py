"""A soak: a run of many small shards, and for a while all sorts of kills at random moments.

The user does what cron would: `cxr resume --if-needed` and `cxr status`, again and again.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from cxr_core.runs.ledger import AttemptRecord, read_attempts
from tests.pipeline import cxr_with_memory
from tests.slurm.cluster import Cluster, program_of
from tests.slurm.tiny import TinyRun

CONFIG = """\
name: tiny
seed: 5
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {{kind: phantom, num_images: {images}, seed: 3, size: 256}}
    size: 32
    shard_size: {shard_size}
"""

IMAGES_A_SHARD = 2
"""A shard takes about a tenth of a second, and its task starts in two."""

_LOOK_EVERY = 10.0
"""Seconds between two looks of the user's."""


class Soak:
    """A run of `num_shards` on a cluster, and what was done to it: `done` counts kills, `calls` the user's commands."""

    def __init__(self, cluster: Cluster, folder: Path, *, num_shards: int, seed: int) -> None:
        config = folder / "soak.yaml"
        config.write_text(CONFIG.format(images=num_shards * IMAGES_A_SHARD, shard_size=IMAGES_A_SHARD))
        self.cluster, self.run = cluster, TinyRun(cluster, folder, config=config)
        self.run.write_profile(minutes=1)  # 30 shards a task
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.most_memory = 0.0
        """MiB that a command of the user's held at its height."""
        self._squeues = folder / "squeues.txt"
        self._squeues.touch()
        self.run.program("squeue", f'echo >> "{self._squeues}"\nexec {shutil.which("squeue")} "$@"')
        self._dead: dict[str, float] = {}

    @property
    def num_squeues(self) -> int:
        """Calls of squeue by all commands of the user's."""
        return self._squeues.stat().st_size

    def survive(self, seconds: float) -> float:
        """Submit, kill for `seconds` or until the run is finished, and return for how long that was."""
        begin = time.monotonic()
        self.run.submit()
        over = Event()
        with ThreadPoolExecutor(1) as user:
            looks = user.submit(self._look_after, over)
            while (now := time.monotonic()) < begin + seconds and self.run.stage.facts() is None:
                self._start_daemons(now)
                harmed = self._harm(now)
                time.sleep(self.random.uniform(0.5, 1.5) if harmed else 0.1)
            over.set()
            looks.result()
        return time.monotonic() - begin

    def _look_after(self, over: Event) -> None:
        """What the user does meanwhile."""
        while not over.wait(_LOOK_EVERY):
            self._command("status", self.run.root)
            self._resume()

    def finish(self, seconds: float = 600) -> None:
        """Stop the kills and let the run come to its end."""
        self._start_daemons(float("inf"))
        deadline = time.monotonic() + seconds
        while self.run.stage.facts() is None and time.monotonic() < deadline:
            self._resume()
            time.sleep(3)
        self.run.wait(seconds)

    def _harm(self, now: float) -> bool:
        """One kill, if any task is there to be killed; on a fast machine that is not for long."""
        live = [attempt for attempt in read_attempts(self.run.stage.path) if attempt.outcome == "running"]
        if not live:
            return False
        kinds = {"payload": 4, "requeue": 2, "cancel": 1, "preempt": 1, "slurmd": 1}
        (kind,) = self.random.choices(list(kinds), list(kinds.values()))
        if kind == "slurmd":
            self._kill_slurmd(now)
        else:
            self._harm_task(kind, self.random.choice(live))
        return True

    def _harm_task(self, kind: str, victim: AttemptRecord) -> None:
        if kind == "payload":
            if program_of(int(victim.beat["pid"])):
                os.kill(int(victim.beat["pid"]), signal.SIGKILL)
        elif kind == "requeue":
            self.cluster.run("scontrol", "requeue", victim.job, check=False)
        elif kind == "cancel":
            self.cluster.run("scancel", victim.job, check=False)
        else:
            words = ("--partition=high", f"--nodelist={victim.node}", "--exclusive", *self.run.charged)
            self.cluster.sbatch("sleep 1", "--job-name=preempts", *words)
        self.done[kind] += 1

    def _kill_slurmd(self, now: float) -> None:
        """For a moment, or for so long that the node counts as lost; never of all nodes."""
        alive = [node for node in self.cluster.nodes if node not in self._dead]
        if len(alive) > 2:
            node = self.random.choice(alive)
            self.cluster.kill_slurmd(node)
            self._dead[node] = now + self.random.choice((2.0, 30.0))
            self.done["slurmd"] += 1

    def _start_daemons(self, now: float) -> None:
        for node in [node for node, back in self._dead.items() if back <= now]:
            self.cluster.start_slurmd(node)
            del self._dead[node]

    def _resume(self) -> None:
        self._command("resume", self.run.root, "--if-needed", "--cluster", self.run.profile)

    def _command(self, *words: str | Path) -> None:
        """One command of the user's, with the memory that it took."""
        status, told, memory = cxr_with_memory(*words, env=self.run.env)
        assert status == 0, told
        self.calls[str(words[0])] += 1
        self.most_memory = max(self.most_memory, memory)

    def told(self, seconds: float) -> str:
        """What was done and seen, in a few lines."""
        ledger = self.run.ledger()
        causes = Counter(f"{a.outcome}: {a.cause}" for a in ledger.attempts)
        num_calls = self.calls.total() + 1
        hours, doubled = ledger.hours, sum(attempt.num_duplicates for attempt in ledger.attempts)
        lines = [
            f"{len(self.run.stage.done())} shards, kills for {seconds:.0f} s: {_listed(self.done)}",
            f"{len(ledger.attempts)} attempts: {_listed(causes)}",
            f"made twice and discarded: {doubled} shards",
            f"hours of processes: {hours.useful:.3f} useful, {hours.duplicated:.3f} duplicated, "
            f"{hours.failed:.3f} failed, {hours.idle:.3f} idle",
            f"{num_calls} commands ({_listed(self.calls)}): at most {self.most_memory:.0f} MiB each, "
            f"{self.num_squeues} calls of squeue, {self.num_squeues / num_calls:.1f} a command",
        ]
        return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{num} {name}" for name, num in counts.most_common())
