"""Work on a stage: freeze its plan, run and commit shards, finalize. The same code in process and in a batch job."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.errors import UserError
from cxr_core.runs.attempt import Attempt, Stopped, is_alive
from cxr_core.runs.commit import commit, place, prune, sweep
from cxr_core.runs.files import fsync_dir, fsync_tree, remove, sha256_file, walk_files, write_json
from cxr_core.runs.plan import Plan, Shard, fingerprint
from cxr_core.runs.progress import bar
from cxr_core.runs.provenance import now
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context, Job, Output

_NO_ROOM = 1 << 20
"""Bytes of a file system below which it counts as full."""


@dataclass(frozen=True)
class Work:
    """One stage ready to be worked on: its folder, its job, what it is a function of, and its inputs' digests."""

    folder: StageFolder
    job: Job
    context: Context
    upstream: Mapping[str, str]


def freeze(work: Work) -> Plan:
    """The frozen plan of a stage; frozen now if it was not. Raises UserError if the inputs changed since."""
    plan = work.folder.plan()
    if plan is None:
        return _freeze_now(work)
    if plan.fingerprint != _fingerprint(work, plan.shards, plan.files):
        raise UserError(
            "the plan was frozen for other inputs or settings than there are now",
            where=str(work.folder.plan_path),
            mend="an input was remade, or this is another version of the program or image: "
            "start a run under another name, or remove this stage's folder",
        )
    damaged = [name for name, sha256 in plan.files.items() if not _is(work.context.plan_folder / name, sha256)]
    if damaged:
        raise UserError(
            f"side files of the plan are not as frozen: {', '.join(damaged)}",
            where=str(work.context.plan_folder),
            mend="remove this stage's folder and run again",
        )
    return plan


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _freeze_now(work: Work) -> Plan:
    final = work.context.plan_folder
    temporary = final.with_name(".plan.tmp")
    for leftover in (temporary, final):  # of a freeze that was killed before it wrote plan.jsonl
        remove(leftover)
    temporary.mkdir(parents=True)
    try:
        draft = work.job.freeze(work.context, temporary)
        fsync_tree(temporary)
        temporary.rename(final)
    except BaseException:
        remove(temporary)
        raise
    fsync_dir(work.folder.path)
    files = {path.relative_to(final).as_posix(): sha256_file(path) for path in walk_files(final)}
    shards = tuple(draft.shards)
    plan = Plan(work.folder.name, shards, _fingerprint(work, shards, files), chain=draft.chain, files=files)
    plan.write(work.folder.plan_path)
    return plan


def _fingerprint(work: Work, shards: Iterable[Shard], files: Mapping[str, str]) -> str:
    return fingerprint(
        version=cxr_core.__version__,
        image=os.environ.get("CXR_IMAGE_SHA256", ""),
        settings=work.context.settings.model_dump(mode="json"),
        seed=work.context.seed,
        upstream=dict(work.upstream),
        files=dict(files),
        shards=[[shard.id, shard.start, shard.stop, dict(shard.extra)] for shard in shards],
    )


def run_pack(
    work: Work, plan: Plan, shard_ids: Sequence[str], *, must_stop: Callable[[], bool] = lambda: False
) -> None:
    """Run those of `shard_ids` that have no receipt, in plan order, and commit each. Ends at the first error.

    `must_stop` is asked before each shard that is to be made. Raises Stopped if it says so.
    """
    wanted = set(shard_ids)
    todo = [shard for shard in plan.shards if shard.id in wanted]
    with Attempt(work.folder.path) as attempt, bar(work.folder.name, len(todo)) as progress:
        for shard in todo:
            if not work.folder.is_done(shard.id):
                if must_stop():
                    raise Stopped(f"before shard {shard.id}")
                _run_one(work, plan, shard, attempt)
            progress.advance()


def _run_one(work: Work, plan: Plan, shard: Shard, attempt: Attempt) -> None:
    folder = attempt.work / shard.id
    folder.mkdir(parents=True)
    attempt.event("shard started", shard=shard.id)
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
    )
    attempt.beat({}, force=True)  # placing may have taken long, and a silent attempt counts as dead
    result = commit(work.folder.path, receipt, is_alive=lambda other: is_alive(work.folder.path, other))
    shutil.rmtree(folder, ignore_errors=True)
    attempt.event("shard ended", shard=shard.id, outcome=result.outcome, digest=receipt.digest)
    _count(attempt, shard, output)
    _prune(work, plan)


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


def _count(attempt: Attempt, shard: Shard, output: Output) -> None:
    attempt.counters["shards"] += 1
    attempt.counters["items"] += shard.num_items
    attempt.counters["problems"] += len(output.problems)
    attempt.beat({}, force=True)


def _prune(work: Work, plan: Plan) -> None:
    obsolete = getattr(work.job, "obsolete", None)
    if obsolete is None:
        return
    done = work.folder.done()
    for shard_id, roles in _by_shard(obsolete(work.context, [s.id for s in plan.shards if s.id in done])).items():
        receipt = work.folder.receipt(shard_id)
        if any((work.folder.path / "shards" / data.name).exists() for data in receipt.data if data.role in roles):
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
        raise UserError(
            f"{len(missing)} of {len(plan.shards)} shards have no receipt: {', '.join(missing[:10])}",
            where=str(work.folder.path),
            mend="run again: only these will be made",
        )
    receipts = [work.folder.receipt(shard.id) for shard in plan.shards]
    strangers = [receipt.shard for receipt in receipts if receipt.plan != plan.fingerprint]
    if strangers:
        raise UserError(
            f"receipts of another plan: {', '.join(strangers[:10])}",
            where=str(work.folder.path / "receipts"),
            mend="the folder holds files of another run: remove the stage's folder and run again",
        )
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
        **facts,
    }
    write_json(work.folder.path / "stage.json", record)
    return record


def _clear_dead_attempts(folder: StageFolder) -> None:
    """Remove what killed attempts left half-made; their events and heartbeats stay."""
    for work in (folder.path / "attempts").glob("*/work"):
        if not is_alive(folder.path, work.parent.name):
            remove(work)


def _seconds(receipts: Sequence[Receipt]) -> float:
    return round(sum(receipt.seconds["make"] + receipt.seconds["place"] for receipt in receipts), 3)


def _device() -> str:
    """The GPU that torch used, if torch was used at all; else the processor."""
    import platform
    import sys

    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else platform.machine()
