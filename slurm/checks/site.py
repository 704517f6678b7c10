"""What the checks look at, and what they give back."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cxr_core.home import expanded
from slurm.checks.ask import CommandResult, ask, at, parse_config, parse_records, scrubbed
from slurm.checks.job import Visit, visit
from slurm.options import further_gres
from slurm.profile import ClusterProfile

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """One line: the fact, and what to do about it where it is not as it should be."""

    level: Level
    fact: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.level != "ok" and not self.fix:
            raise ValueError(f"a result that is not ok needs a fix: {self.fact}")


@dataclass(frozen=True)
class Site:
    """A cluster as it is seen from here. What is asked of the scheduler is asked once.

    `runs` is the folder that will hold run folders; `wait` is how many seconds a job of ours may wait for a node.
    """

    profile: ClusterProfile
    runs: Path
    environ: Mapping[str, str]
    wait: float = 120

    @cached_property
    def has_slurm(self) -> bool:
        return self.profile.scheduler == "slurm" and self.which("sbatch") is not None

    @cached_property
    def controller(self) -> CommandResult:
        """Whether the controller answers. With a configuration that is missing Slurm's commands retry for a minute."""
        return self.ask_cluster("scontrol", "ping", seconds=8)

    @property
    def answers(self) -> bool:
        return self.has_slurm and self.controller.ok

    @cached_property
    def config(self) -> dict[str, str]:
        return parse_config(self.ask_cluster("scontrol", "show", "config").out)

    @cached_property
    def partitions(self) -> dict[str, dict[str, str]]:
        records = parse_records(self.ask_cluster("scontrol", "-o", "show", "partition").out)
        return {record["PartitionName"]: record for record in records}

    def partition(self, kind: str | None = None) -> dict[str, str]:
        """The partition where tasks of this kind go; empty if there is none of that name."""
        name = self.profile.resources(kind).partition
        default = next((key for key, part in self.partitions.items() if part.get("Default") == "YES"), "")
        return self.partitions.get((name or default).split(",")[0], {})

    @cached_property
    def visit(self) -> Visit:
        """What a real job of ours saw on the nodes."""
        total = self.partition("control").get("TotalNodes", "1")
        several = total.isdigit() and int(total) > 1
        return visit(
            self.existing_runs, self.words("control"), self.environ, self.profile, num_nodes=1 + several, wait=self.wait
        )

    @property
    def visited(self) -> bool:
        return self.answers and bool(self.visit.reports)

    @property
    def existing_runs(self) -> Path:
        """The folder of runs, or the nearest one above it that is there already."""
        path = expanded(self.runs).absolute()
        return next(folder for folder in (path, *path.parents) if folder.is_dir())

    def words(self, kind: str | None) -> list[str]:
        """Options of sbatch for a task of this kind."""
        resources, options = self.profile.resources(kind), self.profile.sbatch
        named = ("partition", "account", "qos", "constraint", "exclude", "mem", "time")
        gres = ",".join(filter(None, (resources.gres, further_gres(options)))) or None
        given = {"clusters": self.profile.clusters} | {name: getattr(resources, name) for name in named}
        given |= {"gres": gres, "cpus-per-task": resources.cpus_per_task}
        others = [option for option in options if not option.startswith("--gres=")]
        return [*(f"--{name}={value}" for name, value in given.items() if value is not None), *others]

    def ask(self, *words: str, seconds: float = 20) -> CommandResult:
        """Ask a command, without the variables of a surrounding job."""
        return ask(*words, environ=scrubbed(self.environ), seconds=seconds)

    def ask_cluster(self, command: str, *words: str, seconds: float = 20) -> CommandResult:
        """Ask a command of Slurm, of the cluster that the profile names."""
        return self.ask(*at(self.profile.clusters, command, *words), seconds=seconds)

    def which(self, program: str) -> str | None:
        return shutil.which(program, path=self.environ.get("PATH", ""))


def always(site: Site) -> bool:
    return True


@dataclass(frozen=True)
class Check:
    """A question with a name. It is asked only where `where` holds: without a controller, say, most have no answer."""

    name: str
    find: Callable[[Site], CheckResult | Iterable[CheckResult]]
    where: Callable[[Site], bool] = always

    def findings(self, site: Site) -> list[CheckResult]:
        found = self.find(site)
        return [found] if isinstance(found, CheckResult) else list(found)
