"""Set aside what is damaged, so that the same command as ever makes exactly that again. Nothing is deleted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.files import fsync_dir, write_json
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.plan import Shard
from cxr_core.runs.provenance import now
from cxr_core.runs.run import StageFolder
from cxr_core.runs.verify import Finding, StageCheck

STATE = "state"
"""The role of the data from which the next shard of a chain goes on."""

_STAYS = {"attempts", "submits", "quarantine"}
"""What of a stage's folder tells what was done, and stays when the stage is set aside."""


@dataclass(frozen=True)
class Repair:
    """What was set aside in one stage: shards (shard -> why), its plan, or all of it where its inputs are others now.

    A plan is frozen anew from the same inputs and is then the same, so that receipts stand.
    """

    stage: str
    quarantine: Path
    shards: dict[str, str] = field(default_factory=dict)
    plan: bool = False
    whole_stage: bool = False


def repair_run(checks: Sequence[StageCheck]) -> list[Repair]:
    """Repair every stage with damage. The caller holds the run.

    stage.json of a repaired stage is removed, so that the stage is finished anew. Stages built on it are left as they
    are: made again, it has the same digest; where it has not, they are found to be made of other inputs and are set
    aside then. Raises UserError, before anything is moved, if an attempt is at work in a damaged stage.
    """
    damaged = [check for check in checks if any(finding.is_damage for finding in check.findings)]
    for check in damaged:
        _refuse_while_at_work(check)
    return [_repair_stage(check) for check in damaged]


def set_aside(folders: Sequence[StageFolder], why: str) -> dict[str, Path]:
    """Set whole stages aside, to be made again. Returns stage -> quarantine. The caller holds the run.

    Raises UserError, before anything is moved, if an attempt is at work in one of them.
    """
    checks = [
        StageCheck(
            folder,
            attempts=tuple(read_attempts(folder.path)),
            findings=(Finding(folder.name, "made of other inputs", folder.plan_path, why),),
        )
        for folder in folders
    ]
    return {done.stage: done.quarantine for done in repair_run(checks)}


def _refuse_while_at_work(check: StageCheck) -> None:
    live = [attempt for attempt in check.attempts if attempt.cause == "running"]
    if live:
        raise UserError(
            f"attempt {live[0].id} is at work in it on {live[0].node or live[0].host}",
            where=str(check.folder.path),
            mend="wait until it ends, or cancel it; then repair",
        )


def _repair_stage(check: StageCheck) -> Repair:
    folder, target = check.folder.path, _new_quarantine(check.folder.path)
    kinds = {finding.kind for finding in check.findings}
    whole, plan = "made of other inputs" in kinds, "damaged plan" in kinds
    again = {} if whole else _to_make_again(check)
    # Before anything goes: a stage that lacks a shard must not be called done.
    (folder / "stage.json").unlink(missing_ok=True)
    findings = [{"kind": f.kind, "shard": f.shard, "path": f.path.name, "detail": f.detail} for f in check.findings]
    write_json(target / "reason.json", {"format": 1, "time": now(), "findings": findings, "shards": again})
    if whole:
        _move_all(
            folder, target, [path.name for path in folder.iterdir() if path.name not in _STAYS and path.name[0] != "."]
        )
    else:
        _set_aside(check, again, target)
        if plan:
            _move_all(folder, target, ["plan.jsonl", "plan"])
    fsync_dir(folder)
    return Repair(check.folder.name, target, again, plan, whole)


def _move_all(folder: Path, target: Path, names: Sequence[str]) -> None:
    for name in sorted(names):
        _move(folder / name, target / name)


def _to_make_again(check: StageCheck) -> dict[str, str]:
    """Shard -> why: those with damage and, of a chain, what is needed to make them and what went on from them."""
    again: dict[str, str] = {}
    for finding in check.findings:
        if finding.shard:
            again.setdefault(finding.shard, f"{finding.kind}: {finding.detail}")
    if check.plan and check.plan.chain:
        _add_followers(check, again)
        _add_needed(check, check.plan.shards, again)
    return again


def _add_followers(check: StageCheck, again: dict[str, str]) -> None:
    """After a shard that went on from another result, whatever follows went on from the wrong one too."""
    torn = {finding.shard for finding in check.findings if finding.kind == "continues another result"}
    is_behind = False
    for shard in check.plan.shards if check.plan else ():
        if is_behind and shard.id in check.receipts:
            again.setdefault(shard.id, "continues a shard that is made again")
        is_behind = is_behind or shard.id in torn


def _add_needed(check: StageCheck, shards: Sequence[Shard], again: dict[str, str]) -> None:
    """To make a shard of a chain, the state before it is needed; where a keep rule removed it, it is made again too."""
    for shard in reversed(shards):
        before = shard.extra.get("after")
        missing = shard.id in again or shard.id not in check.receipts
        if before and missing and before in check.receipts and not _has_state(check, before):
            again.setdefault(before, f"its state is needed to make {shard.id} and was removed by a keep rule")


def _has_state(check: StageCheck, shard: str) -> bool:
    names = [data.name for data in check.receipts[shard].data if data.role == STATE]
    return all((check.folder.path / "shards" / name).exists() for name in names)


def _set_aside(check: StageCheck, again: dict[str, str], target: Path) -> None:
    """Receipts first: nobody may read a receipt whose data are gone."""
    folder = check.folder.path
    for shard in again:
        _move(folder / "receipts" / f"{shard}.json", target / "receipts" / f"{shard}.json")
    names = {data.name for shard in again if shard in check.receipts for data in check.receipts[shard].data}
    # Data that no receipt names may be about to get one from an attempt of which nothing was heard for a while.
    if all(attempt.is_over for attempt in check.attempts):
        names |= {finding.path.name for finding in check.findings if _is_stray(finding)}
    for name in sorted(names):
        _move(folder / "shards" / name, target / "shards" / name)
    for shard in again:
        _move(folder / "pruned" / f"{shard}.json", target / "pruned" / f"{shard}.json")


def _is_stray(finding: Finding) -> bool:
    return finding.kind == "data without a receipt"


def _new_quarantine(folder: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = folder / "quarantine" / stamp
    target.mkdir(parents=True)
    return target


def _move(path: Path, target: Path) -> None:
    """Rename within the run's file system; what is not there has nothing to be moved."""
    if path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
