"""A real Slurm cluster on this host, for tests and to try things by hand: munge, slurmctld, four slurmd, fake GPUs.

By hand: `python -m tests.slurm.cluster up FOLDER [--accounting]`, `python -m tests.slurm.cluster down FOLDER`.
Everything lies in one folder and every daemon is ended by its pid file, so several clusters can live side by side.
"""

import argparse
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from string import Template
from typing import Any, Self

TEMPLATE = Path(__file__).with_name("slurm.conf")

DAEMONS = {"munge": "munged", "slurm-wlm": "slurmctld", "slurm-client": "sbatch"}
ACCOUNTING_DAEMONS = {"slurmdbd": "slurmdbd", "mariadb-server": "mariadbd"}
"""Debian package -> a program of it."""

FRONT = "cxrfront"

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_PORTS = range(20000, 30000, 16)
"""Below the range from which the kernel draws ports for outgoing connections, so that a daemon can come back."""


def lacking(*, accounting: bool = False) -> str:
    """Why no cluster can be started here; empty if one can."""
    wanted = DAEMONS | (ACCOUNTING_DAEMONS if accounting else {})
    missing = [package for package, program in wanted.items() if not _which(program)]
    if missing:
        return f"there is no {', '.join(missing)} on this machine (apt-get install {' '.join(missing)})"
    if os.geteuid() != 0:
        return "only root may start Slurm's daemons and make device files"
    return ""


class Cluster(AbstractContextManager["Cluster"]):
    """A cluster in the folder `base`, stopped at the end of the block.

    `env` is the environment in which its commands work: that of this process without SLURM_* variables, plus
    SLURM_CONF. `nodes` are the names n0, n1 ...; partitions are `low` (preempted: requeued), `cancel` (preempted:
    cancelled) and `high` (preempts both). `settings` replace lines of slurm.conf, e.g. {"MaxArraySize": "11"}.
    """

    def __init__(
        self, base: Path, *, accounting: bool = False, num_nodes: int = 4, settings: Mapping[str, str] | None = None
    ) -> None:
        self.base = base.absolute()
        self.accounting = accounting
        self.nodes = tuple(f"n{i}" for i in range(num_nodes))
        self.conf = self.base / "etc" / "slurm.conf"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.env = kept | {"SLURM_CONF": str(self.conf), "PATH": f"{kept.get('PATH', os.defpath)}:{_SBIN}"}
        self._settings = dict(settings or {})

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle. Raises RuntimeError, with their logs, if one is not."""
        for name in ("etc", "log", "pid", "state", "munge", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        # Jobs of another user must be able to walk through, and munge refuses a socket that others can replace.
        for folder in (self.base, *self.base.iterdir()):
            folder.chmod(0o755)
        self._make_gpus()
        self._start_munge()
        self._write_conf()
        if self.accounting:
            self._start_accounting()
        self.start_slurmctld()
        for node in self.nodes:
            self.start_slurmd(node)
        self.until("all nodes are idle", lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def stop(self) -> None:
        """Cancel all jobs and end every process of the cluster. Safe to call twice, and on a cluster that is broken."""
        if self.pid("slurmctld"):
            self.run("scancel", "--state=PENDING", "--user=root", check=False, timeout=10)
            self.run("scancel", "--user=root", check=False, timeout=10)
            _until(lambda: not self.run("squeue", "-h", check=False, timeout=10).stdout.strip(), 10)
        for node in self.nodes:
            self._end(f"slurmd.{node}")
        for name in (f"slurmctld.{FRONT}", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(name)
        for pid in self.strays():
            _kill(pid, signal.SIGKILL)
        _until(lambda: not self.strays(), 5)

    def run(self, *words: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster, by default for at most a minute."""
        defaults = {"env": self.env, "timeout": 60, "cwd": self.base}
        return subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=check, **(defaults | options)
        )

    def sbatch(self, script: str, *words: str | Path) -> str:
        """Submit the body of a bash script; return its job id. Its output goes to `<base>/log/<job>.out`."""
        log = self.base / "log" / "%j.out"
        done = self.run("sbatch", "--parsable", f"--output={log}", *words, input=f"#!/bin/bash\n{script}\n")
        return done.stdout.strip().split(";")[0]

    def state(self, job: str) -> str:
        """State of a job as squeue knows it (for five minutes after its end), e.g. PENDING, COMPLETED."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T", check=False).stdout.strip()

    def wait(self, job: str, state: str = "COMPLETED", seconds: float = 60) -> float:
        """Wait until a job is in `state`; return the seconds that took."""
        return self.until(f"job {job} is {state}", lambda: self.state(job) == state, seconds)

    def output(self, job: str) -> str:
        """What a job has written so far."""
        log = self.base / "log" / f"{job}.out"
        return log.read_text() if log.exists() else ""

    def states(self) -> dict[str, str]:
        """Node -> state, e.g. idle, mixed, down*."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T", check=False).stdout.splitlines()
        return dict(line.split() for line in lines)

    def until(self, what: str, condition: Callable[[], bool], seconds: float = 120) -> float:
        """Wait for anything; return the seconds that took. Raises RuntimeError, with the logs of the daemons."""
        start = time.monotonic()
        if not _until(condition, seconds):
            logs = sorted((self.base / "log").glob("*.log"))
            tails = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)
            raise RuntimeError(f"not within {seconds:.0f} s: {what}\n{tails}")
        return time.monotonic() - start

    def start_slurmctld(self) -> None:
        self.run("slurmctld", "-f", self.conf)
        self.until("slurmctld answers", lambda: self.run("scontrol", "ping", check=False).returncode == 0)

    def start_front(self) -> dict[str, str]:
        """Start the controller of another cluster under the same accounts, which has no node. Returns the environment
        of a person who is logged in there and reaches this cluster by its name, `cxrtest`."""
        etc = self.base / FRONT
        (etc / "state").mkdir(parents=True, exist_ok=True)
        for name in ("gres.conf", "cgroup.conf", "plugstack.conf"):
            shutil.copy(self.conf.with_name(name), etc)
        changes = {
            "ClusterName": FRONT,
            "SlurmctldPort": str(_free_ports(1)[0]),
            "StateSaveLocation": f"{etc}/state",
            "SlurmctldPidFile": f"{self.base}/pid/slurmctld.{FRONT}.pid",
            "SlurmctldLogFile": f"{self.base}/log/slurmctld.{FRONT}.log",
        }
        lines = [line for line in self.conf.read_text().splitlines() if line.partition("=")[0] not in changes]
        conf = etc / "slurm.conf"
        conf.write_text("\n".join([*lines, *(f"{key}={value}" for key, value in changes.items())]) + "\n")
        env = self.env | {"SLURM_CONF": str(conf)}
        self.run("slurmctld", "-f", conf)
        self.until("it answers", lambda: self.run("scontrol", "ping", check=False, env=env).returncode == 0)
        return env

    def stop_slurmctld(self) -> None:
        """End the controller; jobs and nodes go on without it."""
        self._end("slurmctld")

    def start_slurmd(self, node: str) -> None:
        self.run("slurmd", "-f", self.conf, "-N", node)

    def kill_slurmd(self, node: str) -> None:
        """kill -9 the daemon of a node; the jobs on it go on."""
        self._end(f"slurmd.{node}", signal.SIGKILL)

    def heal(self) -> None:
        """Cancel all jobs, start again what was killed, and wait until every node is idle."""
        if not self.pid("slurmctld"):
            self.start_slurmctld()
        for node in self.nodes:
            if not self.pid(f"slurmd.{node}"):
                self.start_slurmd(node)
        self.run("scancel", "--user=root", check=False)
        idle = dict.fromkeys(self.nodes, "idle")
        self.until("the cluster is idle", lambda: not self.run("squeue", "-h").stdout and self.states() == idle)

    def pid(self, daemon: str) -> int | None:
        """Process id of a live daemon by its pid file: munged, slurmctld, slurmd.n0, slurmdbd, mariadbd."""
        try:
            pid = int((self.base / "pid" / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None
        # The file may have outlived its process, and the number may now be another's.
        return pid if program_of(pid) == daemon.split(".")[0] else None

    def daemons(self) -> dict[str, int]:
        """Every live daemon with its process id."""
        names = [
            "munged",
            "slurmctld",
            f"slurmctld.{FRONT}",
            "slurmdbd",
            "mariadbd",
            *(f"slurmd.{node}" for node in self.nodes),
        ]
        return {name: pid for name in names if (pid := self.pid(name))}

    def strays(self) -> list[int]:
        """Processes of jobs: those that Slurm started with this cluster's configuration."""
        mine = f"SLURM_CONF={self.conf}".encode()
        return [pid for pid, environ in _environs() if mine in environ and _is_of_a_job(pid, environ)]

    def _make_gpus(self) -> None:
        """Device files that behave like /dev/null: Slurm counts a GPU only where a device is."""
        for i in range(2):
            device = self.base / "dev" / f"nvidia{i}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def _start_munge(self) -> None:
        folder = self.base / "munge"
        key = folder / "key"
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        self.run(
            "munged",
            "--force",
            f"--key-file={key}",
            f"--socket={folder / 'sock'}",
            f"--seed-file={folder / 'seed'}",
            f"--pid-file={self.base / 'pid' / 'munged.pid'}",
            f"--log-file={self.base / 'log' / 'munged.log'}",
        )

    def _write_conf(self) -> None:
        ports = _free_ports(2 + len(self.nodes))
        values = {
            "base": self.base,
            "host": socket.gethostname().split(".")[0],
            "ctld_port": ports[0],
            "slurmd_ports": ",".join(map(str, ports[2:])),
            "last": len(self.nodes) - 1,
        }
        lines = Template(TEMPLATE.read_text()).substitute(values).splitlines()
        settings = (self._accounting_settings(ports[1]) if self.accounting else {}) | self._settings
        kept = [line for line in lines if line.split("=")[0] not in settings]
        etc = self.conf.parent
        self.conf.write_text("\n".join([*kept, *(f"{key}={value}" for key, value in settings.items())]) + "\n")
        (etc / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self.base}/dev/nvidia[0-1]\n")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        (etc / "plugstack.conf").touch()

    def _accounting_settings(self, port: int) -> dict[str, str]:
        dbd = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.base}/munge/sock",
            "DbdHost": socket.gethostname().split(".")[0],
            "DbdAddr": "127.0.0.1",
            "DbdPort": str(port),
            "SlurmUser": "root",
            "LogFile": f"{self.base}/log/slurmdbd.log",
            "PidFile": f"{self.base}/pid/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "root",
            "StorageLoc": "slurm_acct_db",
        }
        path = self.conf.with_name("slurmdbd.conf")
        path.write_text("".join(f"{key}={value}\n" for key, value in dbd.items()))
        path.chmod(0o600)
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": str(port),
            "AccountingStoragePass": f"{self.base}/munge/sock",
            "AccountingStorageTRES": "gres/gpu",
            # An account that is wrong is refused, as on a cluster that bills.
            "AccountingStorageEnforce": "associations,limits",
        }

    def _start_accounting(self) -> None:
        """MariaDB with its own data and socket and no network, then slurmdbd on it."""
        data, sock = self.base / "mysql", self.base / "mysql.sock"
        common = ("--no-defaults", "--user=root", f"--datadir={data}")
        if not (data / "mysql").is_dir():
            data.mkdir(exist_ok=True)
            self.run("mariadb-install-db", *common, "--auth-root-authentication-method=socket", "--skip-test-db")
        with (self.base / "log" / "mariadbd.log").open("a") as log:
            subprocess.Popen(
                [
                    "mariadbd",
                    *common,
                    f"--socket={sock}",
                    f"--pid-file={self.base / 'pid' / 'mariadbd.pid'}",
                    "--skip-networking",
                    "--innodb-buffer-pool-size=64M",
                    "--innodb-lock-wait-timeout=900",
                    "--innodb-flush-log-at-trx-commit=0",
                ],
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        client = ("mariadb", "--no-defaults", f"--socket={sock}", "-e")
        self.until("mariadbd answers", lambda: self.run(*client, "SELECT 1", check=False).returncode == 0)
        self.run(*client, "CREATE DATABASE IF NOT EXISTS slurm_acct_db")
        self.run("slurmdbd", env=self.env | {"MYSQL_UNIX_PORT": str(sock)})
        listed = ("sacctmgr", "-n", "list", "cluster", "format=cluster")
        self.until("slurmdbd answers", lambda: self.run(*listed, check=False).returncode == 0)
        if "cxrtest" not in self.run(*listed).stdout:
            self.run("sacctmgr", "-i", "add", "cluster", "cxrtest")
        if "cxr" not in self.run("sacctmgr", "-n", "list", "account", "format=account").stdout:
            self.run("sacctmgr", "-i", "add", "account", "cxr", "cluster=cxrtest")
            self.run("sacctmgr", "-i", "add", "user", "root", "account=cxr", "cluster=cxrtest")

    def _end(self, daemon: str, how: signal.Signals = signal.SIGTERM) -> None:
        pid = self.pid(daemon)
        if pid is None:
            return
        _kill(pid, how)
        # Not until its pid file is gone: daemons remove that first and end later.
        if not _until(lambda: not program_of(pid), 20):
            _kill(pid, signal.SIGKILL)
            _until(lambda: not program_of(pid), 5)
        (self.base / "pid" / f"{daemon}.pid").unlink(missing_ok=True)


def program_of(pid: int) -> str:
    """Name of the program that a process runs; empty if it has ended, also where nobody has asked how yet."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return ""
    return "" if fields["State"].strip().startswith("Z") else fields["Name"].strip()


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def _kill(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _environs() -> Iterator[tuple[int, list[bytes]]]:
    """The environment in which each process was started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue


def _is_of_a_job(pid: int, environ: list[bytes]) -> bool:
    """Not so: the shell of a person who works on the cluster, who has SLURM_CONF set too."""
    return program_of(pid) == "slurmstepd" or any(entry.startswith(b"SLURM_JOB_ID=") for entry in environ)


def _free_ports(number: int) -> list[int]:
    """Neighbouring TCP ports that nobody listens on."""
    first = os.getpid() % len(_PORTS)
    for start in (*_PORTS[first:], *_PORTS[:first]):
        ports = list(range(start, start + number))
        if all(map(_is_free, ports)):
            return ports
    raise RuntimeError(f"no {number} free ports between {_PORTS.start} and {_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def main() -> None:
    """`up` and `down`, for `make cluster-up` and `make cluster-down`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("base", type=Path)
    parser.add_argument("--accounting", action="store_true")
    options = parser.parse_args()
    cluster = Cluster(options.base, accounting=options.accounting)
    if options.what == "down":
        cluster.stop()
        return
    reason = lacking(accounting=options.accounting)
    if reason:
        raise SystemExit(reason)
    if cluster.daemons():
        raise SystemExit(f"a cluster runs in {cluster.base} already (make cluster-down)")
    cluster.start()
    print(cluster.run("sinfo").stdout, f"export SLURM_CONF={cluster.conf}", sep="")


if __name__ == "__main__":
    main()
