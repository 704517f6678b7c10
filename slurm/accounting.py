"""Ask the scheduler's accounts for the tasks of a run. They may refuse, be slow or wrong: nothing depends on them."""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial

from cxr_core.runs.accounting import Account, Accounting
from cxr_core.runs.door import BadFiles
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submit_folders
from slurm.checks.ask import ask, at, scrubbed

_PATIENCE = 5.0
"""Seconds that sacct may take."""

_FIELDS = ("JobID", "State", "Start", "End", "NodeList")


def refresh(run: Run, *, max_age: float = 30.0) -> Accounting:
    """What sacct says of all tasks that make shards, asked anew if the last answer is older than `max_age` seconds.

    The answer is kept in the run folder, where it can be written. Never raises for what sacct does; a run that no
    scheduler has is not asked of.
    """
    known = Accounting.read(run.root)
    if 0 <= time.time() - known.asked < max_age:
        return known
    jobs = _jobs(run)
    if not jobs:
        return known
    answers = {cluster: _ask(cluster, numbers) for cluster, numbers in jobs.items()}
    # An answer that was there is not given up for a refusal: accounts are away now and then.
    starts = [start for cluster, found in answers.items() for start in found.starts or _of(known, jobs[cluster])]
    refusal = next((each.refusal for each in answers.values() if each.refusal), "")
    accounting = Accounting(time.time(), refusal, tuple(starts))
    with suppress(OSError):  # a run of somebody else's, or a full disk
        accounting.write(run.root)
    return accounting


def _of(known: Accounting, jobs: Collection[str]) -> list[Account]:
    return [start for start in known.starts if start.job.partition("_")[0] in jobs]


def _jobs(run: Run) -> dict[str, set[str]]:
    """Cluster -> numbers of the jobs whose tasks have attempts."""
    bad = BadFiles()
    stages = [run.stage(stage["name"]).path for stage in run.config["stages"]]
    folders = [folder for stage in stages for folder in bad.read(partial(submit_folders, stage), [])]
    found: dict[str, set[str]] = {}
    for submit in filter(None, [bad.read(partial(Submit.read, folder), None) for folder in folders]):
        if {"shards", "canary"} & set(submit.does) and (submit.job_id or "").isdigit():
            found.setdefault(submit.slurm_cluster, set()).add(submit.job_id or "")
    return found


def _ask(cluster: str, jobs: Collection[str]) -> Accounting:
    words = ("--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={','.join(sorted(jobs))}")
    environ = scrubbed(os.environ) | {"SLURM_TIME_FORMAT": "%s"}
    format_ = f"--format={','.join(_FIELDS)}"
    answer = ask(*at(cluster, "sacct", *words, format_), environ=environ, seconds=_PATIENCE)
    refusal = "" if answer.ok else answer.reason
    return Accounting(time.time(), refusal, tuple(parse(answer.out, set(jobs))) if answer.ok else ())


def parse(text: str, jobs: Collection[str]) -> Iterator[Account]:
    """The starts of tasks of `jobs`, those that have begun. Lines of another form are left out."""
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != len(_FIELDS):
            continue
        job, state, start, end, node = fields
        if job.partition("_")[0] in jobs and start.isdigit() and state:
            yield Account(job, state.split()[0], float(start), float(end) if end.isdigit() else None, node)
