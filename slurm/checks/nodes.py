"""Questions to the nodes, answered by one small real job (see `job` and `probe`)."""

import sys
from collections.abc import Iterator

from cxr_core.runs.attempt import SILENT_AFTER
from slurm.checks.site import CheckResult, Level, Site

_SKEWED = 2.0
"""Seconds between two clocks from which times of files and logs mislead people."""

_SMALL_SCRATCH = 10e9
"""Less than one pack of shards and a container image."""


_HINTS = {
    "PENDING": "try again when the cluster is less busy, or wait longer with --wait SECONDS",
    "REFUSED": "correct the profile as said under `submit`",
}

_HINT = "choose a folder that the nodes share, with --runs DIR, or fix what the job names"


def reached(site: Site) -> CheckResult:
    """Whether the job ran and the run folder is the same on the nodes."""
    told = site.visit
    if told.trouble:
        level: Level = "warn" if told.state == "PENDING" else "fail"
        return CheckResult(level, told.trouble, _HINTS.get(told.state, _HINT))
    names = " and ".join(report["node"] for report in told.reports)
    return CheckResult(
        "ok", f"{names} saw a new folder in {site.existing_runs} ({told.seconds_to_start:.1f} s after sbatch)"
    )


def visibility(site: Site) -> Iterator[CheckResult]:
    """How long a new file stays unseen by another machine, there and back."""
    slowest = max((after - before for before, _, after in site.visit.clocks), default=0.0)
    if not all(report["answered"] for report in site.visit.reports):
        yield _unseen(site, "a file of this machine was not seen by a node")
    else:
        yield _judge(site, slowest, "from here to a node and back")
    if len(site.visit.reports) < 2:
        yield CheckResult("ok", "between nodes: not measured, the job had one node")
        return
    times = site.visit.reports[0]["round_trips"]
    if times:
        yield _judge(site, max(times), "from node to node and back")
    else:
        yield _unseen(site, "a file of one node was not seen by the other")


def _judge(site: Site, seconds: float, way: str) -> CheckResult:
    allowed = site.profile.visible_seconds
    if seconds > allowed:
        return CheckResult(
            "fail",
            f"a new file took {seconds:.1f} s {way}; the profile has visible_seconds: {allowed:g}",
            f"set `visible_seconds: {2 * seconds:.0f}` in the profile, or choose another file system with --runs DIR",
        )
    return CheckResult("ok", f"a new file is seen {way} within {seconds:.2f} s (profile: {allowed:g} s)")


def _unseen(site: Site, fact: str) -> CheckResult:
    return CheckResult(
        "fail", f"{fact} within a minute", "choose a file system for runs that is shared, with --runs DIR"
    )


def links(site: Site) -> CheckResult:
    """Whether of several nodes that link one name at once exactly one succeeds."""
    first = [report["links"]["first"] for report in site.visit.reports]
    again = [report["links"]["again"] for report in site.visit.reports]
    if first.count("ok") == 1 and first.count("EEXIST") == len(first) - 1 and set(again) == {"EEXIST"}:
        return CheckResult("ok", f"of {len(first)} link(s) to one name at once exactly one was made")
    if "ok" in first:
        return CheckResult(
            "fail",
            f"links to one name at once: {', '.join(first)}; again: {', '.join(again)}",
            "two tasks could commit one shard: choose another file system with --runs DIR",
        )
    return CheckResult(
        "warn",
        f"no hard links on the nodes ({', '.join(first)})",
        "commits fall back to claim files, which are slower: prefer another file system for runs",
    )


def scratch(site: Site) -> CheckResult:
    """Where temporary files go on a node."""
    places = [report["scratch"] for report in site.visit.reports]
    for place in places:
        if "error" in place:
            return CheckResult(
                "fail",
                f"cannot write to {place['path']} on a node ({place['error']})",
                "correct `scratch:` in the profile",
            )
    least = min(places, key=lambda place: place["free"])
    private = (
        "private to a job" if site.config.get("JobContainerType") == "job_container/tmpfs" else "shared by its jobs"
    )
    fact = f"{least['path']} on the nodes has {least['free'] / 1e9:.1f} GB free"
    if not least["own"]:
        return CheckResult(
            "warn",
            f"{fact}, in the same file system as the runs",
            "name a node's own disk as `scratch:` in the profile, if it has one",
        )
    if least["free"] < _SMALL_SCRATCH:
        return CheckResult("warn", fact, "name a larger disk of the node as `scratch:` in the profile")
    return CheckResult("ok", f"{fact}; /tmp is {private}")


def clocks(site: Site) -> CheckResult:
    """The difference between the clocks of this machine and the nodes, known to half of a round trip."""
    found = [(node - (before + after) / 2, (after - before) / 2) for before, node, after in site.visit.clocks]
    if not found:
        return CheckResult("warn", "not measured: no node answered", "see what is said about visibility")
    skew, doubt = max(found, key=lambda pair: max(0.0, abs(pair[0]) - pair[1]))
    sure = max(0.0, abs(skew) - doubt)
    fact = f"a node's clock is {skew:+.2f} s from ours (known to {doubt:.2f} s)"
    fix = "the machines need NTP: ask your administrators"
    if sure > SILENT_AFTER / 2:
        return CheckResult("fail", f"{fact}, so that live attempts would look dead", fix)
    return CheckResult("warn", fact, fix) if sure > _SKEWED else CheckResult("ok", fact)


def python(site: Site) -> CheckResult:
    """Whether a node has the Python that `cxr` runs in."""
    other = [report for report in site.visit.reports if report["executable"] != sys.executable]
    if not other:
        return CheckResult("ok", f"the nodes have {sys.executable}")
    report = other[0]
    if site.profile.container:
        return CheckResult("ok", f"tasks run in {site.profile.container}; {report['node']} has no {sys.executable}")
    return CheckResult(
        "fail",
        f"{report['node']} has no {sys.executable} (it has {report['executable']}, {report['python']})",
        "install into a folder that the nodes share, or set `container:` in the profile",
    )


def submits(site: Site) -> CheckResult:
    """Whether a run can resume itself from a node."""
    lacking = [report["node"] for report in site.visit.reports if not report["sbatch"]]
    if not lacking:
        return CheckResult("ok", "the nodes have sbatch, as --auto-resume needs")
    return CheckResult(
        "warn",
        f"{lacking[0]} has no sbatch, so --auto-resume cannot send from there",
        "let cron do it on a login node: `cxr resume RUN --if-needed` sends only what is missing",
    )
