"""Work on a stage: freeze its plan, run and commit shards, finalize. The same code in process and in a batch job."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.runs import code, image
from cxr_core.runs.attempt import Attempt, Purpose, is_alive
from cxr_core.runs.causes import SHARDS_FAILED, Stopped, cause_of, machine_fails, process_is_lost
from cxr_core.runs.commit import commit, place, prune, sweep
from cxr_core.runs.failures import (
    Failure,
    forget_failure,
    named_failure,
    park_if_hopeless,
    parked,
    record_failure,
    text_of,
)
from cxr_core.runs.files import fsync_tree, json_text, sha256_file, walk_files
from cxr_core.runs.plan import Plan, Shard, fingerprint, listed
from cxr_core.runs.progress import bar
from cxr_core.runs.provenance import now
from cxr_core.runs.receipt import Data, Receipt, broken_links
from cxr_core.runs.run import StageFolder
from cxr_core.runs.sources import changed_files, frozen_files
from cxr_core.runs.stage import Context, Draft, Output, StageJob
from cxr_core.runs.verify import is_as_frozen
from cxr_core.settings import OF_A_RUN, as_before

log = room_log(__name__)

_NO_ROOM = 1 << 20
"""Bytes of a file system below which it counts as full."""


@dataclass(frozen=True)
class Work:
    """One stage ready to be worked on: its folder, its job, what it is a function of, its inputs' digests, and the
    sha256 of each file outside of the run that it reads."""

    folder: StageFolder
    job: StageJob
    context: Context
    upstream: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


def freeze(work: Work) -> Plan:
    """The frozen plan of a stage; frozen now if it was not. Raises UserError if inputs, image, code or libraries are
    others than when it, or an earlier stage, was planned."""
    plan = work.folder.plan()
    run = work.folder.path.parent
    if plan is None:
        code.check(run)
        return _freeze_now(work)
    image.check(run, work.folder.name, plan.image)
    if not is_finished(work.folder, plan):
        code.check(run)
    changes = _changes(work, plan)
    if changes:
        raise UserError(
            "the plan was frozen for other inputs or settings than there are now:\n"
            + "\n".join(f"    {line}" for line in changes),
            where=str(work.folder.plan_path),
            hint="put back what it was made of, start a run under another name, or make this stage and what follows "
            "from it again: --take-inputs (what was made before goes to quarantine/)",
        )
    damaged = [name for name, sha256 in plan.files.items() if not is_as_frozen(work.folder, name, sha256)]
    if damaged:
        raise UserError(
            f"side files of the plan are not as frozen: {', '.join(damaged)}",
            where=str(work.context.plan_folder),
            hint="remove this stage's folder and run again",
        )
    return plan


def is_finished(folder: StageFolder, plan: Plan) -> bool:
    """Whether nothing is left to make of a stage."""
    return folder.is_finished and {shard.id for shard in plan.shards} <= folder.done()


def _changes(work: Work, plan: Plan) -> list[str]:
    """What a plan was frozen for and is otherwise now, a line each."""
    if plan.is_old:
        same = plan.fingerprint == old_fingerprint(work, plan)
        lines = [] if same else upstream_changes(work, plan) or ["settings, seed or shards"]
        return [*lines, *_file_changes(work, plan)]
    settings, before = _settings(work), _settings_of(work, plan)
    keys = sorted(key for key in {*settings, *before} if settings.get(key) != before.get(key))
    lines = [f"{key}: {before.get(key)!r} -> {settings.get(key)!r}" for key in keys]
    if plan.parts["seed"] != work.context.seed:
        lines.append(f"seed: {plan.parts['seed']} -> {work.context.seed}")
    lines += [*upstream_changes(work, plan), *_file_changes(work, plan)]
    return lines if plan.sealed() == plan.fingerprint else [*lines, "plan.jsonl was edited or is damaged"]


def _file_changes(work: Work, plan: Plan) -> list[str]:
    """Files that are not as frozen. A node may not see those that only planning needs: launchers ask for them."""
    return changed_files(frozen_files(work.folder.path, plan) or {}, work.files, is_finished=True)


def upstream_changes(work: Work, plan: Plan) -> list[str]:
    """The inputs that have another digest now than when the stage was planned, a line each."""
    old, new = plan.upstream, work.upstream
    roles = sorted(role for role in {*old, *new} if old.get(role) != new.get(role))
    return [f"input {role}: {_digest(old.get(role))} -> {_digest(new.get(role))}" for role in roles]


def _digest(sha256: str | None) -> str:
    return f"digest {sha256[:12]}" if sha256 else "none"


def _settings(work: Work) -> dict[str, Any]:
    return dict(work.context.settings.model_dump(mode="json", exclude={"ranks"}))


def _settings_of(work: Work, plan: Plan) -> dict[str, Any]:
    """The settings that a plan was frozen for, with the keys that came later as they were then."""
    given = plan.parts["settings"]
    try:
        settings = type(work.context.settings).model_validate(given, context=OF_A_RUN)
        return dict(settings.model_dump(mode="json", exclude={"ranks"}))
    except ValueError:
        return dict(given)  # another form of settings: the difference is shown


def _freeze_now(work: Work) -> Plan:
    stage = work.folder.place.make()
    for leftover in (_UNFINISHED, "plan"):  # of a freeze that was killed before it wrote plan.jsonl
        stage.remove(leftover)
    temporary = (stage / _UNFINISHED).make().path
    try:
        draft = work.job.freeze(work.context, temporary)
        fsync_tree(temporary)
        stage.move(_UNFINISHED, stage, "plan")
    except BaseException:
        stage.remove(_UNFINISHED)
        raise
    with stage.handle() as here:
        os.fsync(here)
    plan = _sealed(work, draft)
    getattr(work.job, "frozen", _nothing)(work.context)
    plan.write(work.folder.plan_path)
    log.debug("stage %s: planned as %d shards, fingerprint %s", plan.stage, len(plan.shards), plan.fingerprint[:12])
    return plan


_UNFINISHED = ".plan.tmp"


def _nothing(context: Context) -> None:
    """A job has nothing to write down of what it read."""


def _sealed(work: Work, draft: Draft) -> Plan:
    """The plan of a draft whose side files lie in place, with all that it was frozen for."""
    folder, here = work.context.plan_folder, code.Code.here()
    here.record(work.folder.path.parent)
    plan = Plan(
        work.folder.name,
        tuple(draft.shards),
        "",
        chain=draft.chain,
        files={path.relative_to(folder).as_posix(): sha256_file(path) for path in walk_files(folder)},
        upstream=dict(work.upstream),
        image=image.image(),
        parts={
            "settings": _settings(work),
            "seed": work.context.seed,
            "code": here.sha256,
            "commit": here.commit,
            "libraries": dict(here.libraries),
            "files": dict(work.files),
        },
    )
    return replace(plan, fingerprint=plan.sealed())


def old_fingerprint(work: Work, plan: Plan) -> str:
    """What the fingerprint of a plan of before `parts` would be for the settings and inputs of now."""
    settings = as_before(work.context.settings, _settings(work))
    return fingerprint(
        version="0.1.0",
        image=plan.image,
        settings=settings,
        seed=work.context.seed,
        upstream=dict(work.upstream),
        files=dict(plan.files),
        shards=listed(plan.shards),
    )


def run_pack(
    work: Work, plan: Plan, shard_ids: Sequence[str], *, must_stop: Callable[[], bool] = lambda: False
) -> None:
    """Run those of `shard_ids` that have no receipt and are not parked, in plan order, and commit each.

    A shard that fails is recorded and the others are done; then the first error is raised, with the names of all.
    The pack ends at once where the others would fail too: in a chain, when the machine, its GPU or its disk fails, and
    when two shards are refused in the same words, which are then raised as they are.

    `must_stop` is asked before each shard that is to be made. Raises Stopped if it says so.
    """
    todo = _todo(work, plan, set(shard_ids))
    failed: list[tuple[Failure, Exception]] = []
    with Attempt(work.folder.path) as attempt, bar(work.folder.name, len(todo)) as progress:
        for shard in todo:
            error = None if work.folder.is_done(shard.id) else _try_one(work, plan, shard, attempt, must_stop)
            if error is not None:
                _stop_if_of_the_stage(error, failed, attempt)
                failed.append((_record(work, attempt, shard, error), error))
                if plan.chain or process_is_lost(error):
                    break
            progress.advance()
        if failed:
            attempt.cause = SHARDS_FAILED
            raise named_failure([failure for failure, _ in failed], failed[0][1])


def _try_one(work: Work, plan: Plan, shard: Shard, attempt: Attempt, must_stop: Callable[[], bool]) -> Exception | None:
    """Run a shard and commit it. Returns what it failed of: one shard must not take the others with it."""
    if must_stop():
        raise Stopped(f"before shard {shard.id}")
    try:
        _run_one(work, plan, shard, attempt)
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - recorded and raised again at the pack's end
        return error
    _prune(work, plan)
    return None


def _todo(work: Work, plan: Plan, wanted: set[str]) -> list[Shard]:
    return [shard for shard in plan.to_do(parked=parked(work.folder.path)) if shard.id in wanted]


def _stop_if_of_the_stage(error: Exception, failed: Sequence[tuple[Failure, Exception]], attempt: Attempt) -> None:
    """Raise `error` again where it is not of one shard alone."""
    if machine_fails(error):
        raise error
    if isinstance(error, UserError):
        same = [failure.shard for failure, other in failed if isinstance(other, UserError) and str(other) == str(error)]
        for shard in same:
            forget_failure(attempt.folder, shard)
        if same:
            raise error


def _record(work: Work, attempt: Attempt, shard: Shard, error: Exception) -> Failure:
    """Write down that a shard failed, and clear what it left half-made."""
    (attempt.place / "work").remove(shard.id)
    cause, text = cause_of(error), text_of(error)
    log.warning("shard %s of %s failed (%s): %s", shard.id, work.folder.name, cause, text)
    attempt.counters["failed"] += 1
    seconds = attempt.leave_shard(shard.id, "failed", "shard failed", cause=cause, text=text)
    failure = Failure(shard.id, attempt.id, cause, text, seconds, now())
    record_failure(attempt.folder, failure, error)
    if park_if_hopeless(work.folder.path, shard.id):
        attempt.event("parked", shard=shard.id, cause=cause)
        log.error("shard %s of %s is parked: it failed again and again for one cause", shard.id, work.folder.name)
        return replace(failure, is_parked=True)
    return failure


def _run_one(work: Work, plan: Plan, shard: Shard, attempt: Attempt) -> None:
    folder = attempt.work / shard.id
    attempt.enter_shard(shard.id)
    (attempt.place / "work" / shard.id).make()
    start = time.monotonic()
    with _full_disks_named(folder):
        output = work.job.run_shard(work.context, shard, folder)
    made = time.monotonic()
    data = place(work.folder.path, shard.id, attempt.id, output.paths)
    placed = time.monotonic()
    seconds = {**output.seconds, "make": round(made - start, 3), "place": round(placed - made, 3)}
    receipt = Receipt(
        shard=shard.id,
        digest=output.digest,
        data=data,
        plan=plan.fingerprint,
        attempt=attempt.id,
        seed=work.context.seed,
        counts=dict(output.counts),
        problems=tuple(output.problems),
        seconds=seconds,
        device=_device(),
        ended=now(),
        continues=_continued(work, shard),
        image=image.image(),
        code=code.Code.here().sha256,
        version=cxr_core.__version__,
        commit=code.Code.here().commit,
    )
    attempt.beat({}, force=True)  # placing may have taken long, and a silent attempt counts as dead
    result = commit(work.folder.path, receipt, is_alive=lambda other: is_alive(work.folder.path, other))
    (attempt.place / "work").remove(shard.id)
    if result.outcome != "committed":
        _withdraw(work.folder, data, result.receipt)
    _count(attempt, shard, output, result.outcome)
    _tell(work, shard, result.outcome, made - start)
    counted_as: Purpose = "useful" if result.outcome == "committed" else "duplicated"
    attempt.leave_shard(shard.id, counted_as, "shard ended", outcome=result.outcome, digest=receipt.digest)


def _tell(work: Work, shard: Shard, outcome: str, seconds: float) -> None:
    level = logging.WARNING if outcome == "differs" else logging.DEBUG
    log.log(level, "shard %s of %s: %s after %.1f s", shard.id, work.folder.name, outcome, seconds)


def _withdraw(folder: StageFolder, placed: Sequence[Data], standing: Receipt) -> None:
    """Remove what was placed in vain: the stage may be finished already, and nobody sweeps it again."""
    kept = {data.name for data in standing.data}
    for data in placed:
        if data.name not in kept:
            (folder.place / "shards").remove(data.name)


def _continued(work: Work, shard: Shard) -> str:
    """The digest of the shard that this one of a chain went on from; empty for any other."""
    before = shard.extra.get("after")
    return work.folder.receipt(before).digest if before else ""


@contextmanager
def _full_disks_named(folder: Path) -> Iterator[None]:
    """Libraries tell a full disk in words of their own; whatever failed while there was no room failed of that."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < _NO_ROOM or (room.f_files and not room.f_favail):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _count(attempt: Attempt, shard: Shard, output: Output, outcome: str) -> None:
    attempt.counters["shards"] += 1
    attempt.counters["items"] += shard.num_items
    attempt.counters["problems"] += len(output.problems)
    attempt.counters["duplicates"] += outcome != "committed"


def _prune(work: Work, plan: Plan) -> None:
    obsolete = getattr(work.job, "obsolete", None)
    if obsolete is None:
        return
    done = work.folder.done()
    for shard_id, roles in _by_shard(obsolete(work.context, [s.id for s in plan.shards if s.id in done])).items():
        receipt = work.folder.receipt(shard_id)
        if any((work.folder.place / "shards").has(data.name) for data in receipt.data if data.role in roles):
            prune(work.folder.path, receipt, roles, "keep rule")


def _by_shard(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for shard_id, role in pairs:
        found.setdefault(shard_id, []).append(role)
    return found


def finalize(work: Work, plan: Plan) -> dict[str, Any]:
    """Check that every shard has its receipt, write what readers use and, last, stage.json. Idempotent."""
    done = work.folder.done()
    missing = [shard.id for shard in plan.shards if shard.id not in done]
    if missing:
        raise _incomplete(work.folder, plan, missing)
    receipts = work.folder.receipts_of([shard.id for shard in plan.shards])
    strangers = [receipt.shard for receipt in receipts if receipt.plan != plan.fingerprint]
    if strangers:
        raise UserError(
            f"receipts of another plan: {', '.join(strangers[:10])}",
            where=str(work.folder.path / "receipts"),
            hint="the folder holds files of another run: remove the stage's folder and run again",
        )
    _check_chain(work.folder, plan, receipts)
    start = time.monotonic()
    facts = dict(work.job.finalize(work.context, receipts))
    _prune(work, plan)
    swept = sweep(work.folder.path, receipts)
    _clear_dead_attempts(work.folder)
    record = {
        "format": 1,
        "status": "done",
        "fingerprint": plan.fingerprint,
        "num_shards": len(receipts),
        "seconds": {"shards": _seconds(receipts), "finalize": round(time.monotonic() - start, 3)},
        "swept": swept,
        "code": sorted({receipt.code for receipt in receipts if receipt.code}),
        **facts,
    }
    work.folder.place.write("stage.json", json_text(record))
    log.debug("stage %s: finished, %d shards, %d strays swept", work.folder.name, len(receipts), len(swept))
    return record


def _check_chain(folder: StageFolder, plan: Plan, receipts: Sequence[Receipt]) -> None:
    """Raise UserError where a shard of a chain went on from another result than the one that stands."""
    torn = broken_links(plan, {receipt.shard: receipt for receipt in receipts})
    if torn:
        raise UserError(
            f"shards went on from another result than stands before them: {', '.join(torn[:10])}",
            where=str(folder.path / "receipts"),
            hint=f"`cxr verify {folder.path.parent} --repair` sets them aside; then run again",
        )


def _incomplete(folder: StageFolder, plan: Plan, missing: Sequence[str]) -> UserError:
    names = sorted(parked(folder.path) & set(missing))
    what = f"{len(missing)} of {len(plan.shards)} shards have no receipt: {', '.join(missing[:10])}"
    hint = "run again: only these will be made"
    if names:
        what += f"; parked, since they failed again and again for the same cause: {', '.join(names[:10])}"
        hint = f"`cxr logs {folder.path.parent} {folder.name} {names[0]}` says why; then run with --retry-parked"
    return UserError(what, where=str(folder.path), hint=hint)


def _clear_dead_attempts(folder: StageFolder) -> None:
    """Remove what killed attempts left half-made; their events and heartbeats stay."""
    attempts = folder.place / "attempts"
    for entry in attempts.entries():
        if entry.is_folder and (attempts / entry.name).has("work") and not is_alive(folder.path, entry.name):
            (attempts / entry.name).remove("work")


def _seconds(receipts: Sequence[Receipt]) -> float:
    return round(sum(receipt.seconds.get("make", 0) + receipt.seconds.get("place", 0) for receipt in receipts), 3)


def _device() -> str:
    """The GPU that torch used, if torch was used at all; else the processor."""
    import platform
    import sys

    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else platform.machine()
