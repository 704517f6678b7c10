"""How the work of a stage becomes jobs: few tasks of 30 to 60 minutes, within the limits of the cluster."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias

from cxr_core.errors import UserError
from cxr_core.runs.submits import Part
from slurm.profile import ClusterProfile, Resources

After: TypeAlias = "tuple[str | int, ...]"
"""Jobs in the queue, by id, and jobs of the same plan, by their place in it."""

_OF_THE_LIMIT = 0.8
"""Part of the time limit that a task is planned to fill."""


@dataclass(frozen=True)
class StageWork:
    """What is left to do of one stage, and what is known of its size.

    `todo` lists shards without a receipt, or is None while the plan is not frozen; `num_shards` and `num_items` count
    all shards. `chain`: shard k needs shard k-1. `seconds` is the measured time of a shard, None before there is a
    receipt. `parked` are shards that are not tried any more. `jobs` says which parts live jobs will do, `changes` what
    is asked for otherwise than the profile says, and `control_changes` the same of the jobs that freeze and finalize. A
    task is `nodes` times `ranks_per_node` processes that work together.
    """

    name: str
    kind: str
    threads: int
    num_items: int
    num_shards: int
    chain: bool = False
    upstream: Sequence[str] = ()
    todo: Sequence[str] | None = None
    parked: Sequence[str] = ()
    finished: bool = False
    seconds: float | None = None
    num_files: int = 0
    num_bytes: int = 0
    jobs: Mapping[str, Collection[Part]] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    control_changes: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1
    ranks_per_node: int = 1

    @property
    def num_left(self) -> int:
        return self.num_shards if self.todo is None else len(self.todo)

    def resources(self, profile: ClusterProfile) -> Resources:
        """What a task that makes shards asks for. Each rank has a GPU of its own, where tasks of its kind have any."""
        found = profile.resources(self.kind)
        gpus = {"gpus_per_node": self.ranks_per_node} if self.has_ranks and found.gpus_per_node else {}
        return found.model_copy(update=dict(self.changes) | gpus)

    @property
    def has_ranks(self) -> bool:
        """Whether a task is more than one process."""
        return self.nodes * self.ranks_per_node > 1

    def shard_seconds(self, resources: Resources) -> float:
        """Measured, else guessed by the profile."""
        return self.seconds or self.num_items / max(1, self.num_shards) * resources.seconds_per_item


@dataclass(frozen=True)
class Job:
    """One submit to be."""

    work: StageWork
    does: tuple[Part, ...]
    num_tasks: int = 1
    packs: Sequence[Sequence[str]] | None = None
    after: After = ()

    @property
    def kind(self) -> str:
        """Whose resources it gets."""
        return self.work.kind if self.computes else "control"

    @property
    def computes(self) -> bool:
        """Whether it makes shards, or one to try."""
        return "shards" in self.does or "canary" in self.does

    @property
    def changes(self) -> dict[str, str]:
        """What it asks for otherwise than the profile says."""
        return dict(self.work.changes if self.computes else self.work.control_changes)

    @property
    def nodes(self) -> int:
        return self.work.nodes if self.computes else 1

    @property
    def ranks_per_node(self) -> int:
        return self.work.ranks_per_node if self.computes else 1

    def resources(self, profile: ClusterProfile) -> Resources:
        if self.computes:
            return self.work.resources(profile)
        return profile.resources(self.kind).model_copy(update=self.changes)

    def cpus(self, profile: ClusterProfile) -> int:
        """CPUs of a task. Raises UserError if the profile gives fewer than the stage computes with."""
        given = self.resources(profile).cpus_per_task or self.work.threads
        if given < self.work.threads and self.computes:
            raise UserError(
                f"stage {self.work.name!r} computes with {self.work.threads} threads, "
                f"but profile {profile.name!r} gives a task {given} CPUs",
                hint=f"set stages.{self.work.kind}.cpus_per_task: {self.work.threads} in the profile, "
                f"or threads: {given} in the config (threads are part of the plan)",
            )
        return given

    def hours(self, profile: ClusterProfile) -> float:
        """Hours of all tasks together."""
        if "shards" not in self.does:
            return 0.0
        return self.work.num_left * self.work.shard_seconds(self.resources(profile)) / 3600

    def gpu_hours(self, profile: ClusterProfile) -> float:
        return self.hours(profile) * self.resources(profile).gpus_per_node * self.nodes


def plan_jobs(works: Sequence[StageWork], profile: ClusterProfile, *, num_queued: int = 0) -> list[Job]:
    """The jobs that finish the stages, each after those it needs; nothing for what is done or in the queue.

    Raises UserError if the cluster's limits leave no room.
    """
    jobs: list[Job] = []
    ends: dict[str, After] = {}
    for work in works:
        before: After = tuple(job for name in work.upstream for job in ends.get(name, ()))
        ends[work.name] = _add_stage(jobs, work, profile, before)
    jobs = _within_limits(jobs, profile, num_queued)
    for job in jobs:
        job.cpus(profile)
    return jobs


def _add_stage(jobs: list[Job], work: StageWork, profile: ClusterProfile, before: After) -> After:
    """Append the jobs of one stage and return those after which it is finished."""
    queued = {part for parts in work.jobs.values() for part in parts}
    if work.finished or "finalize" in queued:
        return tuple(work.jobs)
    num_tasks = 0 if "shards" in queued else _num_tasks(work, profile)
    live: After = tuple(work.jobs)
    needs_freeze = work.todo is None and "freeze" not in queued
    if num_tasks == 1:
        does: tuple[Part, ...] = ("freeze", "shards", "finalize") if work.todo is None else ("shards", "finalize")
        jobs.append(Job(work, does, 1, _packs(work, 1), before + live))
        return (len(jobs) - 1,)
    if num_tasks:
        if needs_freeze:
            jobs.append(Job(work, ("freeze",), after=before))
            before = (len(jobs) - 1,)
        jobs.append(Job(work, ("shards",), num_tasks, _packs(work, num_tasks), before + live))
        live = (len(jobs) - 1,)
    jobs.append(Job(work, ("finalize",), after=live or before))
    return (len(jobs) - 1,)


def _num_tasks(work: StageWork, profile: ClusterProfile) -> int:
    if work.chain:
        return min(1, work.num_left)
    resources = work.resources(profile)
    minutes = min(profile.task_minutes, _OF_THE_LIMIT * 60 * resources.hours)
    each = max(1, int(60 * minutes / work.shard_seconds(resources)))
    return min(math.ceil(work.num_left / each), profile.max_array_size)


def _packs(work: StageWork, num_tasks: int) -> list[list[str]] | None:
    """Equal runs of neighbours, which read the same files."""
    if work.todo is None:
        return None
    bounds = [len(work.todo) * i // num_tasks for i in range(num_tasks + 1)]
    return [list(work.todo[a:b]) for a, b in pairwise(bounds)]


def _within_limits(jobs: Sequence[Job], profile: ClusterProfile, num_queued: int) -> list[Job]:
    """Larger packs where all tasks together are more than the cluster lets one user queue."""
    room, total = profile.max_submit - num_queued, sum(job.num_tasks for job in jobs)
    if total <= room:
        return list(jobs)
    if len(jobs) > room:
        raise UserError(
            f"{len(jobs)} jobs are needed, but profile {profile.name!r} allows {profile.max_submit} in the queue, "
            f"where {num_queued} of yours are",
            hint="wait until some ended, or submit one stage with --stage NAME",
        )
    arrays = sum(job.num_tasks - 1 for job in jobs)
    shrunk = [1 + (job.num_tasks - 1) * (room - len(jobs)) // arrays for job in jobs]
    return [
        replace(job, num_tasks=num, packs=_packs(job.work, num) if job.packs is not None else None)
        for job, num in zip(jobs, shrunk, strict=True)
    ]


def table(jobs: Sequence[Job], works: Sequence[StageWork], profile: ClusterProfile) -> list[dict[str, Any]]:
    """A row a stage for `cxr plan --cluster`; `gpus` are those in use at once, `hours` and `cost` are of all tasks."""
    rows = []
    for work in works:
        ours = [job for job in jobs if job.work.name == work.name]
        num_tasks = sum(job.num_tasks for job in ours if "shards" in job.does)
        gpus = work.resources(profile).gpus_per_node * work.nodes * min(num_tasks, profile.array_parallelism)
        gpu_hours = sum(job.gpu_hours(profile) for job in ours)
        rows.append(
            {
                "stage": work.name,
                "kind": work.kind,
                "shards": 0 if work.finished else work.num_left,
                "tasks": num_tasks,
                "gpus": gpus,
                "hours": sum(job.hours(profile) for job in ours),
                "gpu_hours": gpu_hours,
                "files": work.num_files,
                "bytes": work.num_bytes,
                "cost": gpu_hours * profile.price_per_gpu_hour,
                "measured": work.seconds is not None,
            }
        )
    return rows
