"""Examine a cluster from where runs are sent: what is as it must be, what is not, and what to do about it."""

from collections.abc import Iterator, Sequence

from slurm.checks import machine, nodes, scheduler
from slurm.checks.site import Check, CheckResult, Site


def _has_slurm(site: Site) -> bool:
    return site.has_slurm


def _answers(site: Site) -> bool:
    return site.answers


def _knows_partition(site: Site) -> bool:
    return site.answers and bool(site.partition())


def _visited(site: Site) -> bool:
    return site.visited


def _present(site: Site) -> CheckResult:
    """One line for a machine without a scheduler: the rest is about the machine alone."""
    if site.profile.scheduler != "slurm":
        return CheckResult("ok", f"profile {site.profile.name} needs none: tasks are processes on this machine")
    return CheckResult(
        "warn",
        "there is no sbatch here, so only this machine was examined",
        "call it on a login node, or load Slurm's module; `cxr run` needs no scheduler",
    )


CHECKS: Sequence[Check] = (
    Check("run folder", machine.run_folder),
    Check("room", machine.room),
    Check("caches", machine.caches),
    Check("python", machine.python_leaks),
    Check("variables", machine.scheduler_leaks),
    Check("scheduler", _present, where=lambda site: not site.has_slurm),
    Check("commands", scheduler.commands, where=_has_slurm),
    Check("controller", scheduler.controller, where=_has_slurm),
    Check("munge", scheduler.munge, where=_answers),
    Check("submit", scheduler.partition, where=_answers),
    Check("limits", scheduler.limits, where=_answers),
    Check("accounting", scheduler.accounting, where=_answers),
    Check("preemption", scheduler.preemption, where=_knows_partition),
    Check("requeue", scheduler.requeue, where=_answers),
    Check("dependencies", scheduler.dependencies, where=_answers),
    Check("ports", scheduler.ports, where=_answers),
    Check("nodes", nodes.reached, where=_answers),
    Check("visibility", nodes.visibility, where=_visited),
    Check("links", nodes.links, where=_visited),
    Check("scratch", nodes.scratch, where=_visited),
    Check("clocks", nodes.clocks, where=_visited),
    Check("node python", nodes.python, where=_visited),
    Check("node submit", nodes.submits, where=_visited),
)
"""In the order in which they are told: each where it can be answered."""


def examine(site: Site, checks: Sequence[Check] = CHECKS) -> Iterator[tuple[str, CheckResult]]:
    """Ask every check that has an answer here; yield its name and each of its findings as soon as they are known."""
    for check in checks:
        if check.where(site):
            for finding in check.findings(site):
                yield check.name, finding
