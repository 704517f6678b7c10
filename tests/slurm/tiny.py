"""A run of many small shards on a real cluster, whose tasks can be held up in the middle of a shard.

What the tests of faults start from: inject a fault, resume at most once, compare with the run that nothing happened to.
"""

import fcntl
import os
import re
import signal
from pathlib import Path
from subprocess import CompletedProcess

from cxr_core.data.dataset import Dataset
from cxr_core.report.write import write_report
from cxr_core.runs.ledger import AttemptRecord, Ledger, read_attempts, read_ledger
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.submits import Submit, submit_folders
from tests.pipeline import cxr
from tests.radiographs import grey, png
from tests.slurm.cluster import Cluster

NUM_TASKS, NUM_SHARDS = 6, 24
"""Four shards a task."""
PACK_MINUTES = 2 * NUM_SHARDS / NUM_TASKS / 60

CONFIG = """\
name: tiny
seed: 5
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {{kind: table, csv: "{csv}", images: ["{images}"], findings: [Edema]}}
    size: 32
    shard_size: 2
    policies: {{unreadable: fail, truncated: fail, unclear_white: convert}}
"""

PROFILE = """\
inherits: base
partition: {partition}
mem: 1900M
array_parallelism: 8
task_minutes: {minutes}
visible_seconds: 2
grace_seconds: {grace}
stages:
  preprocess: {{seconds_per_item: 1, time: "{time}"}}
# As in a container: the payload finds no command of Slurm.
setup: ['srun() {{ PATH=/nowhere "$(type -P srun)" "$@"; }}']
"""
"""Two tasks fit on a node of the test cluster."""

HOSTILE = "a space, 'a quote\" and\na newline"


class HeldImage:
    """An image whose reader has to wait, as on a file system that hangs: its file is under a lease.

    The kernel gives a lease up after /proc/sys/fs/lease-break-time, which `leases.be_patient` raises.
    """

    def __init__(self, path: Path) -> None:
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # so the kernel tells the holder that somebody waits
        self.path = path
        self._file: int | None = os.open(path, os.O_RDWR)
        self._lease(fcntl.F_WRLCK)

    def _lease(self, kind: int) -> None:
        assert self._file is not None
        fcntl.fcntl(self._file, fcntl.F_SETLEASE, kind)

    def is_awaited(self) -> bool:
        """Whether somebody opens it, who waits for `release`."""
        assert self._file is not None
        return fcntl.fcntl(self._file, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def mend(self) -> None:
        """Put a whole file in its place for everybody who comes from now on."""
        assert self._file is not None
        state, whole = os.fstat(self._file), self.path.with_suffix(".whole")
        whole.write_bytes(os.pread(self._file, state.st_size, 0))  # to open it again would wait for ourselves
        os.utime(whole, ns=(state.st_atime_ns, state.st_mtime_ns))
        whole.rename(self.path)

    def release(self) -> None:
        """Let the reader who waits go on, if it still lives."""
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def forget(self) -> None:
        """The reader who waits is gone: wait for another."""
        self._lease(fcntl.F_UNLCK)
        self._lease(fcntl.F_WRLCK)


class TinyRun:
    """A user with a run of 24 shards in 6 tasks (or another `config` of that name), in a folder with a bad name.

    `bin` is a folder that stands first in the user's PATH; `folder` is where the run lies, with the images beside it.
    """

    def __init__(self, cluster: Cluster, folder: Path, *, runs: Path | None = None, config: Path | None = None) -> None:
        self.cluster, self.folder = cluster, folder
        self.runs = runs or folder / HOSTILE
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.env = cluster.env | {"PATH": f"{self.bin}:{cluster.env['PATH']}"}
        self.profile, self.config = folder / "site.yaml", config or write_config(folder)
        self.write_profile()
        self.num_resumes = 0

    def write_profile(
        self,
        *,
        partition: str = "low",
        limit: str = "00:10:00",
        grace: int = 40,
        minutes: float = PACK_MINUTES,
        more: str = "",
    ) -> None:
        """`limit` of time, seconds of `grace`, `minutes` of a pack, in which a shard counts as two seconds, and `more`
        lines of YAML."""
        text = PROFILE.format(partition=partition, time=limit, grace=grace, minutes=minutes) + more
        self.profile.write_text(text + ("account: cxr\n" if self.cluster.accounting else ""))

    @property
    def charged(self) -> tuple[str, ...]:
        """What a job of somebody else needs, where jobs are charged."""
        return ("--account=cxr",) if self.cluster.accounting else ()

    def add_stage(self, text: str) -> None:
        """Lines of YAML, to the end of the config."""
        self.config.write_text(self.config.read_text() + text)

    def hold(self, shard: int) -> HeldImage:
        """Hold up whoever makes a shard, at its second image."""
        return HeldImage(self.folder / "images" / f"{2 * shard + 1:05d}.png")

    def until_awaited(self, *images: HeldImage) -> None:
        self.cluster.until("the tasks wait for their images", lambda: all(image.is_awaited() for image in images))

    def program(self, name: str, text: str) -> None:
        """A command that stands before the real one in the user's PATH."""
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def hide(self, name: str) -> None:
        """Let the user's PATH hold all programs of this machine but one."""
        folder = self.folder / "hidden"
        folder.mkdir()
        for program in Path("/usr/bin").iterdir():
            if program.name != name:
                (folder / program.name).symlink_to(program)
        (self.bin / name).unlink(missing_ok=True)
        self.env["PATH"] = f"{self.bin}:{folder}"

    def cxr(self, *words: str | Path) -> CompletedProcess[str]:
        # A profile that is a path is named each time.
        by = ("--cluster", self.profile) if words[0] == "resume" and "--cluster" not in words else ()
        return cxr(*words, *by, env=self.env)

    def submit(self, *words: str) -> str:
        """Submit and return the id of the array that makes the shards."""
        done = self.cxr("submit", self.config, "--cluster", self.profile, "--runs", self.runs, *words)
        assert done.returncode == 0, done.stderr
        return self.array

    def resume(self, *words: str) -> CompletedProcess[str]:
        self.num_resumes += 1
        done = self.cxr("resume", self.root, *words)
        assert done.returncode == 0, done.stderr
        return done

    @property
    def root(self) -> Path:
        return self.runs / "tiny"

    @property
    def stage(self) -> StageFolder:
        return Run.open(self.root).stage("real")

    @property
    def submits(self) -> list[Submit]:
        return [Submit.read(folder) for folder in submit_folders(self.stage.path)]

    @property
    def array(self) -> str:
        """The job that makes shards, of the first submit."""
        return next(str(submit.job_id) for submit in self.submits if "shards" in submit.does)

    def queue(self) -> list[str]:
        """Jobs that have not ended."""
        return self.cluster.run("squeue", "--noheader", "--format=%i").stdout.split()

    def wait(self, seconds: float = 120) -> None:
        self.cluster.until("the queue is empty", lambda: not self.queue(), seconds)

    def attempts(self, task: str, restart: int | None = None) -> list[AttemptRecord]:
        """Attempts of a task, e.g. "12_3", the oldest first."""
        found = [attempt for attempt in read_attempts(self.stage.path) if attempt.job == task]
        return [attempt for attempt in found if restart in (None, attempt.restart)]

    def process(self, task: str) -> int:
        """The payload of the latest attempt of a task."""
        return int(self.attempts(task)[-1].beat["pid"])

    def node(self, task: str) -> str:
        return self.attempts(task)[-1].node

    def status(self) -> str:
        done = self.cxr("status", self.root)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def report(self) -> str:
        """The words of the report."""
        page = write_report(self.root).read_text()
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))

    def ledger(self) -> Ledger:
        return read_ledger(Run.open(self.root))

    def logs(self, stage: str = "real") -> str:
        files = sorted((self.root / stage).glob("submits/*/*.out"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in files)

    def finish(self, seconds: float = 120) -> None:
        """Wait for the jobs that there are and, if the stage is not done then, resume once and wait again."""
        self.wait(seconds)
        if self.stage.facts() is None:
            self.resume()
            self.wait(seconds)

    def assert_whole(self, digest: str) -> None:
        """Each shard has its receipt, each image is there once, all bytes are as recorded, the digest is right."""
        facts, plan = self.stage.facts(), self.stage.plan()
        assert facts is not None, self.status() + self.logs()
        assert plan is not None
        assert facts["digest"] == digest
        assert self.stage.done() == {shard.id for shard in plan.shards}
        rows = Dataset.open(self.stage.path).rows
        assert rows["image_id"].is_unique
        assert len(rows) == sum(shard.num_items for shard in plan.shards)
        verified = self.cxr("verify", self.root)
        assert verified.returncode == 0, verified.stdout
        assert self.num_resumes <= 1


def write_images(folder: Path) -> Path:
    """48 images and their table, the same in every folder."""
    images = folder / "images"
    images.mkdir()
    names = [f"{i:05d}.png" for i in range(2 * NUM_SHARDS)]
    for i, name in enumerate(names):
        (images / name).write_bytes(png(grey(i)))
    lines = [f"{name},{i // 2},{'Edema' if i % 3 else 'No Finding'},PA" for i, name in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["image,patient,labels,view", *lines]) + "\n")
    return images


def write_config(folder: Path) -> Path:
    """The config of the run and all that it reads, in `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(csv=folder / "table.csv", images=write_images(folder)))
    return path


def undisturbed_digest(config: Path, folder: Path) -> str:
    """The digest of a run in process that nothing happened to; threads change the time alone."""
    done = cxr("run", config, "stages.real.threads=2", "--runs", folder, "--stage", "real", timeout=3600)
    assert done.returncode == 0, done.stderr
    facts = Run.open(folder / "tiny").stage("real").facts()
    assert facts is not None
    return str(facts["digest"])
