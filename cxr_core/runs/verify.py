"""Whether a run is as its receipts say: every receipt, every data file, every plan. Changes nothing."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, sha256_file, sha256_path, size_of
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.plan import Plan
from cxr_core.runs.receipt import Data, Receipt, broken_links
from cxr_core.runs.run import Run, StageFolder

Kind = Literal[
    "damaged plan",
    "damaged receipt",
    "receipt of another plan",
    "missing data",
    "damaged data",
    "continues another result",
    "data without a receipt",
    "finished without a receipt",
    "damaged stage.json",
    "made of other inputs",
]

_READERS = 4
"""Files that are read at the same time: hashing leaves Python's lock alone."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as recorded. `shard` is empty where it is of the whole stage."""

    stage: str
    kind: Kind
    path: Path
    detail: str
    shard: str = ""
    is_damage: bool = True

    def __str__(self) -> str:
        note = "" if self.is_damage else " (no damage: it is swept when the stage is finished)"
        return f"{self.stage}: {self.kind}: {self.path}: {self.detail}{note}"


@dataclass(frozen=True)
class StageCheck:
    """What was found in one stage, with what a repair has to know: its plan and the receipts that can be read."""

    folder: StageFolder
    plan: Plan | None = None
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    attempts: tuple[AttemptRecord, ...] = ()
    findings: tuple[Finding, ...] = ()
    num_files: int = 0


def verify_run(run: Run, *, quick: bool = False, progress: Callable[[], None] = lambda: None) -> list[StageCheck]:
    """Check every stage that has a plan, in the order of the config.

    `quick` compares the sizes of data files but does not read them. `progress` is called once a data file.
    """
    return [verify_stage(run, stage, quick=quick, progress=progress) for stage in run.config["stages"]]


def verify_stage(
    run: Run, stage: Mapping[str, Any], *, quick: bool = False, progress: Callable[[], None] = lambda: None
) -> StageCheck:
    """Check one stage; a stage without a plan has nothing to check."""
    folder = run.stage(stage["name"])
    try:
        plan = folder.plan()
    except UserError as error:
        return StageCheck(folder, findings=(Finding(folder.name, "damaged plan", folder.plan_path, error.what),))
    if plan is None:
        return StageCheck(folder)
    attempts = tuple(read_attempts(folder.path))
    receipts, findings = _read_receipts(folder, plan)
    findings += [*_side_files(folder, plan), *_stage_record(folder, plan, receipts), *_inputs(run, stage, plan)]
    findings += _data(folder, receipts, quick, progress)
    findings += [_torn(folder, shard) for shard in broken_links(plan, receipts)]
    if not any(attempt.cause == "running" for attempt in attempts):
        findings += _strays(folder, receipts)
    num_files = sum(len(receipt.data) for receipt in receipts.values())
    return StageCheck(folder, plan, receipts, attempts, tuple(findings), num_files)


def _read_receipts(folder: StageFolder, plan: Plan) -> tuple[dict[str, Receipt], list[Finding]]:
    planned, receipts, findings = {shard.id for shard in plan.shards}, {}, []
    for shard in sorted(folder.done()):
        path = folder.path / "receipts" / f"{shard}.json"
        try:
            receipt = Receipt.read(path)
        except (UserError, UnicodeDecodeError) as error:
            detail = error.what if isinstance(error, UserError) else "not text"
            findings.append(Finding(folder.name, "damaged receipt", path, detail, shard))
            continue
        if receipt.plan != plan.fingerprint or shard not in planned:
            detail = f"of the plan {receipt.plan[:12]}, this is {plan.fingerprint[:12]}"
            detail = detail if shard in planned else f"the plan has no shard {shard}"
            findings.append(Finding(folder.name, "receipt of another plan", path, detail, shard))
        elif receipt.shard != shard or not all(_is_whole(data) for data in receipt.data):
            findings.append(
                Finding(folder.name, "damaged receipt", path, "its values are not those of a receipt", shard)
            )
        else:
            receipts[shard] = receipt
    return receipts, findings


def _is_whole(data: Data) -> bool:
    """Whether a data entry can be one: a plain name, a size and a sha256."""
    named = isinstance(data.name, str) and data.name == Path(data.name).name not in ("", ".", "..")
    return named and isinstance(data.bytes, int) and re.fullmatch(r"[0-9a-f]{64}", str(data.sha256)) is not None


def _side_files(folder: StageFolder, plan: Plan) -> Iterator[Finding]:
    if plan.sealed() != plan.fingerprint:
        yield Finding(folder.name, "damaged plan", folder.plan_path, "its fingerprint is not that of what stands in it")
    for name, sha256 in plan.files.items():
        path = folder.path / "plan" / name
        if not path.is_file() or sha256_file(path) != sha256:
            yield Finding(folder.name, "damaged plan", path, "not as frozen")


def _stage_record(folder: StageFolder, plan: Plan, receipts: Mapping[str, Receipt]) -> Iterator[Finding]:
    path = folder.path / "stage.json"
    if not path.exists():
        return
    try:
        str(read_json(path)["digest"])
    except (ValueError, TypeError, KeyError) as error:
        yield Finding(folder.name, "damaged stage.json", path, repr(error))
    done = folder.done()
    for shard in plan.shards:
        if shard.id not in done:
            detail = "stage.json says that the stage is done"
            yield Finding(
                folder.name, "finished without a receipt", path, f"{detail}, shard {shard.id} is not", shard.id
            )


def _inputs(run: Run, stage: Mapping[str, Any], plan: Plan) -> Iterator[Finding]:
    """Where an earlier stage has another digest now than when this one was planned."""
    names = {other["name"] for other in run.config["stages"]}
    for role, name in (stage.get("inputs") or {}).items():
        facts = _facts(run.stage(name)) if name in names else None
        if facts and role in plan.upstream and facts.get("digest") != plan.upstream[role]:
            detail = f"planned with {name} {plan.upstream[role][:12]}, which is {str(facts.get('digest'))[:12]} now"
            yield Finding(stage["name"], "made of other inputs", run.stage(stage["name"]).plan_path, detail)


def _facts(folder: StageFolder) -> dict[str, Any] | None:
    """stage.json; None where it is not there or is damaged, which is a finding of that stage."""
    try:
        facts = folder.facts()
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _data(
    folder: StageFolder, receipts: Mapping[str, Receipt], quick: bool, progress: Callable[[], None]
) -> list[Finding]:
    gone = _pruned(folder)

    def check(entry: tuple[str, Data]) -> Finding | None:
        shard, data = entry
        return None if data.name in gone else _check_data(folder, shard, data, quick)

    entries = [(receipt.shard, data) for receipt in receipts.values() for data in receipt.data]
    found = []
    with ThreadPoolExecutor(_READERS) as pool:
        for finding in pool.map(check, entries):
            progress()
            found += [finding] if finding else []
    return found


def _check_data(folder: StageFolder, shard: str, data: Data, quick: bool) -> Finding | None:
    path = folder.path / "shards" / data.name
    if not path.exists():
        return Finding(folder.name, "missing data", path, f"the receipt of shard {shard} names it", shard)
    try:
        size = size_of(path)
        if size != data.bytes:
            return Finding(folder.name, "damaged data", path, f"{size} bytes, {data.bytes} were recorded", shard)
        if not quick and sha256_path(path) != data.sha256:
            return Finding(folder.name, "damaged data", path, "another sha256 than recorded", shard)
    except OSError as error:
        return Finding(folder.name, "damaged data", path, f"cannot be read: {error.strerror}", shard)
    return None


def _pruned(folder: StageFolder) -> set[str]:
    """Data that a keep rule removed and may be missing: names that are not there and were recorded as removed."""
    records = (folder.path / "pruned").glob("*.json")
    names = {str(name) for record in records for name in read_json(record)["data"]}
    return {name for name in names if not (folder.path / "shards" / name).exists()}


def _torn(folder: StageFolder, shard: str) -> Finding:
    path = folder.path / "receipts" / f"{shard}.json"
    return Finding(folder.name, "continues another result", path, "the shard before it was made anew", shard)


def _strays(folder: StageFolder, receipts: Mapping[str, Receipt]) -> list[Finding]:
    shards = folder.path / "shards"
    named = {data.name for receipt in receipts.values() for data in receipt.data}
    names = sorted(entry.name for entry in os.scandir(shards) if entry.name not in named) if shards.is_dir() else []
    is_done = (folder.path / "stage.json").exists()
    return [
        Finding(folder.name, "data without a receipt", shards / name, "no readable receipt names it", is_damage=is_done)
        for name in names
    ]
