"""Set aside what is damaged, so that the same command as ever makes exactly that again. Nothing is deleted."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.door import Place, place_of
from cxr_core.runs.files import json_text
from cxr_core.runs.ledger import read_attempts
from cxr_core.runs.plan import Shard
from cxr_core.runs.provenance import now
from cxr_core.runs.run import StageFolder
from cxr_core.runs.verify import SET_ASIDE, Discrepancy, StageCheck

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
    records: int = 0
    """Other files that were set aside: of attempts, submits, what was parked or pruned."""


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
            findings=(Discrepancy(folder.name, "made of other inputs", folder.plan_path, why),),
        )
        for folder in folders
    ]
    return {done.stage: done.quarantine for done in repair_run(checks)}


def _refuse_while_at_work(check: StageCheck) -> None:
    live = [attempt for attempt in check.attempts if attempt.outcome == "running"]
    if live:
        raise UserError(
            f"attempt {live[0].id} is at work in it on {live[0].node or live[0].host}",
            where=str(check.folder.path),
            hint="wait until it ends, or cancel it; then repair",
        )


def _repair_stage(check: StageCheck) -> Repair:
    stage = check.folder.place
    if check.folder.name == SET_ASIDE:
        return _repair_run_records(check)
    target = _new_quarantine(stage)
    kinds = {finding.kind for finding in check.findings if finding.is_damage}
    whole, plan = "made of other inputs" in kinds, "damaged plan" in kinds
    again = {} if whole else _to_make_again(check)
    if kinds != {"damaged record"}:
        # Before anything goes: a stage that lacks a shard must not be called done.
        stage.move("stage.json", target)
    _tell(check, again, target)
    if whole:
        _move_all(stage, target, [e.name for e in stage.entries() if e.name not in _STAYS and e.name[0] != "."])
    else:
        _set_aside(check, again, target)
        _set_aside_records(check, stage.path, target)
        if plan:
            _move_all(stage, target, ["plan.jsonl", "plan"])
    _flush(stage)
    records = sum(finding.kind == "damaged record" for finding in check.findings)
    return Repair(check.folder.name, target.path, again, plan, whole, records)


def _repair_run_records(check: StageCheck) -> Repair:
    """Set aside what lies in the run's folder itself; all of it is made again or asked for anew."""
    target = (check.folder.place / _stamp()).make()
    _tell(check, {}, target)
    _set_aside_records(check, check.folder.path.parent, target)
    return Repair(_RUN, target.path, records=len(check.findings))


_RUN = "run"
"""In place of a stage's name: the files beside the stages."""


def _tell(check: StageCheck, again: dict[str, str], target: Place) -> None:
    findings = [{"kind": f.kind, "shard": f.shard, "path": f.path.name, "detail": f.detail} for f in check.findings]
    record = {"format": 1, "time": now(), "findings": findings, "shards": again}
    target.write("reason.json", json_text(record))


def _move_all(folder: Place, target: Place, names: Sequence[str]) -> None:
    for name in sorted(names):
        folder.move(name, target)


def _set_aside_records(check: StageCheck, above: Path, target: Place) -> None:
    """Each under the same path within the quarantine."""
    for finding in check.findings:
        # What lay in the place of `quarantine` is moved already, and a folder cannot be moved into itself.
        if finding.kind == "damaged record" and finding.path != above / "quarantine":
            place, name = place_of(finding.path, above)
            place.move(name, Place(target.root, (*target.parts, *place.parts)))


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
    return all((check.folder.place / "shards").has(name) for name in names)


def _set_aside(check: StageCheck, again: dict[str, str], target: Place) -> None:
    """Receipts first: nobody may read a receipt whose data are gone."""
    stage = check.folder.place
    for shard in again:
        (stage / "receipts").move(f"{shard}.json", target / "receipts")
    names = {data.name for shard in again if shard in check.receipts for data in check.receipts[shard].data}
    # Data that no receipt names may be about to get one from an attempt of which nothing was heard for a while.
    if all(attempt.is_over for attempt in check.attempts):
        names |= {finding.path.name for finding in check.findings if _is_stray(finding)}
    for name in sorted(names):
        (stage / "shards").move(name, target / "shards")
    for shard in again:
        (stage / "pruned").move(f"{shard}.json", target / "pruned")


def _is_stray(finding: Discrepancy) -> bool:
    return finding.kind == "data without a receipt"


def _new_quarantine(stage: Place) -> Place:
    """A new folder to move things to. What lies in the place of `quarantine` and is no folder is moved there too."""
    target, found = stage / "quarantine" / _stamp(), stage.stat("quarantine")
    if found is None or stat.S_ISDIR(found.st_mode):
        return target.make()
    stage.move("quarantine", stage, ".quarantine.tmp")
    target.make()
    stage.move(".quarantine.tmp", target, "quarantine")
    return target


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _flush(folder: Place) -> None:
    with folder.handle() as here:
        os.fsync(here)
