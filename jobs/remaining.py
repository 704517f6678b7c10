"""What remains to be done of each stage of a run, and what follows for it from how earlier attempts ended."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from cxr_core.errors import UserError
from cxr_core.runs.failures import parked
from cxr_core.runs.follow_up import FollowUp
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.unstarted import Unstarted, grouped, in_words, release_tasks
from jobs.config import RunConfig
from jobs.inputs import inputs_of
from jobs.launch import estimates
from slurm.adjust import Adjusted, adjusted, excluding
from slurm.packs import StageWork
from slurm.profile import ClusterProfile
from slurm.queue import usable_nodes
from slurm.submit import live_jobs

_NUM_MEASURED = 20
"""Receipts that are read to measure the time of a shard."""


def works_of(run: Run, config: RunConfig, queue: Mapping[str, str], only: str | None = None) -> list[StageWork]:
    """What remains of each stage, or of the one named, whose inputs then must be there or in the queue."""
    sizes = estimates(config, run)
    wanted = config.stage(only).name if only else None
    works = [_work(run, stage, sizes[stage.name], config, queue) for stage in config.stages]
    if wanted is None:
        return works
    chosen = next(work for work in works if work.name == wanted)
    needed = [work for work in works if work.name in chosen.upstream]
    lacking = [work.name for work in needed if not work.finished and not work.jobs]
    if lacking:
        raise UserError(
            f"stage {wanted!r} needs {', '.join(map(repr, lacking))}, which is neither finished nor in the queue",
            where=str(run.root),
            hint="submit that stage first, or leave out --stage",
        )
    return [*(replace(work, finished=True) for work in needed), chosen]


def _work(run: Run, stage: Any, size: Any, config: RunConfig, queue: Mapping[str, str]) -> StageWork:
    folder = run.stage(stage.name)
    names = {other.name for other in config.stages}
    plan = folder.plan()
    done, aside = folder.done(), parked(folder.path)
    facts = folder.facts()
    ranks = getattr(stage, "ranks", None)
    return StageWork(
        name=stage.name,
        kind=stage.kind,
        threads=stage.threads,
        num_items=sum(shard.num_items for shard in plan.shards) if plan else size.num_items,
        num_shards=len(plan.shards) if plan else size.num_shards,
        chain=plan.chain if plan else stage.kind == "train",
        upstream=[name for name in inputs_of(stage).values() if name in names],
        todo=[shard.id for shard in plan.to_do(done, aside)] if plan else None,
        parked=sorted(aside - done),
        finished=facts is not None and plan is not None and {shard.id for shard in plan.shards} <= done,
        seconds=_measured(folder, done),
        num_files=size.num_files,
        num_bytes=size.num_bytes,
        jobs=live_jobs(run, stage.name, queue) if queue else {},
        nodes=ranks.nodes if ranks else 1,
        ranks_per_node=ranks.per_node if ranks else 1,
    )


def _measured(folder: StageFolder, done: set[str]) -> float | None:
    """Mean seconds of a shard, by some of the receipts that there are."""
    some = sorted(done)[:: max(1, len(done) // _NUM_MEASURED)][:_NUM_MEASURED]
    seconds = [folder.receipt(shard).seconds for shard in some]
    total = sum(parts.get("make", 0.0) + parts.get("place", 0.0) for parts in seconds)
    return total / len(some) if some and total > 0 else None


def park(run: Run, following: FollowUp) -> list[str]:
    """Park shards that end whatever works on them. Returns a line a shard."""
    lines = []
    for name, stage in following.stages.items():
        for parking in stage.park:
            parking.write(run.stage(name).path)
            cause = f"three attempts were killed in it ({parking.cause})"
            lines.append(f"{name}: shard {parking.shard} is parked: {cause}")
    return lines


def refuse_recurring(run: Run, following: FollowUp, queue: Mapping[str, str]) -> list[str]:
    """Returns a line about tasks that ended before their first shard, and of which another may do better.

    Raises UserError where none of a submit came so far: what is sent would end in the same way.
    """
    notes = []
    for name, stage in following.stages.items():
        if live_jobs(run, name, queue):
            continue
        if stage.would_recur:
            raise _would_end_again(run, name, stage.would_recur)
        notes += [f"{name}: {in_words(group)}; it is sent again" for group in grouped(stage.facts.unstarted)]
    return notes


def _would_end_again(run: Run, stage: str, tasks: Sequence[Unstarted]) -> UserError:
    lines = [in_words(group) for group in grouped(tasks)] + ["its log ends:", *tasks[0].last_lines]
    return UserError(
        f"stage {stage!r}: what was sent last died before it began, and would die again:\n    " + "\n    ".join(lines),
        where=str(tasks[0].log),
        hint=f"fix the cause, then `cxr resume {run.root} --retry-parked`",
    )


def release_unstarted(folder: StageFolder) -> None:
    """Let tasks that ended before their first shard be sent again."""
    release_tasks(folder, read_attempts(folder.path))


def possible(works: Sequence[StageWork]) -> tuple[list[StageWork], list[str]]:
    """The stages of which something can be done, and a line for each that waits for parked shards in vain."""
    vain: set[str] = set()
    kept, lines = [], []
    for work in works:
        missed = [name for name in work.upstream if name in vain]
        if work.parked and not work.finished:
            vain.add(work.name)
            shards = ", ".join(work.parked[:5]) + " ..." * (len(work.parked) > 5)
            lines.append(f"{work.name}: parked, so it cannot be finished: {shards} (--retry-parked tries them again)")
        elif missed and not work.jobs:
            vain.add(work.name)
            lines.append(f"{work.name}: left out, since it needs {', '.join(missed)}")
        if work.name not in vain or (work.todo and not missed):
            kept.append(work)
    return kept, lines


def asking_otherwise(
    works: Sequence[StageWork], profile: ClusterProfile, following: FollowUp
) -> tuple[list[StageWork], list[str]]:
    """The same with more memory or time where one was short, and without nodes that failed; and why."""
    bad = following.bad_nodes if profile.scheduler == "slurm" else {}
    to_avoid = cache(partial(_nodes_to_avoid, bad, profile.clusters))
    found: list[StageWork] = []
    lines: list[str] = []
    left_out: set[str] = set()
    for work in works:
        shards, control = _adjusted(work, profile, following)
        changes, control_changes = dict(shards.values), dict(control.values)
        for values, wanted in (
            (changes, profile.resources(work.kind)),
            (control_changes, profile.resources("control")),
        ):
            nodes = to_avoid(wanted.partition, wanted.exclude)
            values |= {"exclude": excluding(wanted, nodes)} if nodes else {}
            left_out |= set(nodes)
        found.append(replace(work, changes=changes, control_changes=control_changes))
        reasons = [*shards.reasons, *control.reasons] if not work.finished else []
        lines += [f"{work.name}: {reason}" for reason in reasons]
    return found, [*(f"node {name} is left out: {bad[name]}" for name in bad if name in left_out), *lines]


def _adjusted(work: StageWork, profile: ClusterProfile, following: FollowUp) -> tuple[Adjusted, Adjusted]:
    """Of the jobs that make shards of a stage, and of those that freeze and finalize it."""
    if (stage := following.stages.get(work.name)) is None:
        return Adjusted(), Adjusted()
    shards = adjusted(profile.resources(work.kind), stage.short, stage.facts.raised)
    return shards, adjusted(profile.resources("control"), stage.control_short, stage.facts.control_raised)


def _nodes_to_avoid(
    bad: Mapping[str, str], cluster: str | None, partition: str | None, exclude: str | None
) -> list[str]:
    """Of the nodes where a task may run, at most half are left out, the latest: a run must not exclude itself from the
    cluster. A node that the cluster does not have would be refused."""
    if not bad:
        return []
    usable = usable_nodes(partition, exclude, cluster)
    chosen = [name for name in bad if name in usable]
    return chosen[max(0, len(chosen) - len(usable) // 2) :]
