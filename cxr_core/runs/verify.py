"""Whether a run is as its receipts say: every receipt, every data file, every plan. Changes nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cxr_core.runs.bad_records import bad_records_of_run, bad_records_of_stage
from cxr_core.runs.commit import Pruned
from cxr_core.runs.content import sha256_in, size_in
from cxr_core.runs.door import BadFileError, BadFiles, Place, printable
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
    "damaged record",
]

SET_ASIDE = "_set_aside"
"""Beside the stages: files of the run itself that were damaged."""

_READERS = 4
"""Files that are read at the same time: hashing leaves Python's lock alone."""


@dataclass(frozen=True)
class Discrepancy:
    """One thing that is not as recorded. `shard` is empty where it is of the whole stage."""

    stage: str
    kind: Kind
    path: Path
    detail: str
    shard: str = ""
    is_damage: bool = True

    def __str__(self) -> str:
        note = "" if self.is_damage else " (no damage: it is swept when the stage is finished)"
        return printable(f"{self.stage}: {self.kind}: {self.path}: {self.detail}{note}")


@dataclass(frozen=True)
class StageCheck:
    """What was found in one stage, with what a repair has to know: its plan and the receipts that can be read."""

    folder: StageFolder
    plan: Plan | None = None
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    attempts: tuple[AttemptRecord, ...] = ()
    findings: tuple[Discrepancy, ...] = ()
    num_files: int = 0


def verify_run(run: Run, *, quick: bool = False, progress: Callable[[], None] = lambda: None) -> list[StageCheck]:
    """Check every stage that has a plan, in the order of the config, and then the files beside the stages.

    `quick` compares the sizes of data files but does not read them. `progress` is called once a data file.
    """
    checks = [verify_stage(run, stage, quick=quick, progress=progress) for stage in run.config["stages"]]
    beside = _damaged_records("run", bad_records_of_run(run))
    return [*checks, StageCheck(run.stage(SET_ASIDE), findings=beside)] if beside else checks


def verify_stage(
    run: Run, stage: Mapping[str, Any], *, quick: bool = False, progress: Callable[[], None] = lambda: None
) -> StageCheck:
    """Check one stage; of a stage without a plan only what attempts and submits recorded."""
    folder, bad = run.stage(stage["name"]), BadFiles()
    try:
        plan = folder.plan()
    except BadFileError as error:
        at = Discrepancy(folder.name, "damaged plan", error.path, error.what)
        return StageCheck(folder, findings=(at, *_damaged_records(folder.name, bad_records_of_stage(folder))))
    attempts = tuple(bad.read(lambda: read_attempts(folder.path), []))
    if plan is None:
        return StageCheck(folder, None, {}, attempts, _damaged_records(folder.name, bad_records_of_stage(folder)))
    receipts, findings = _read_receipts(folder, plan, bad)
    findings += [*_side_files(folder, plan), *_stage_record(folder, plan, bad), *_inputs(run, stage, plan)]
    findings += _data(folder, receipts, quick, progress)
    findings += [_torn(folder, shard) for shard in broken_links(plan, receipts)]
    if not any(attempt.outcome == "running" for attempt in attempts):
        findings += bad.read(lambda: _strays(folder, receipts), [])
    for each in bad_records_of_stage(folder):
        bad.note(each)
    num_files = sum(len(receipt.data) for receipt in receipts.values())
    findings += _damaged_records(folder.name, bad)
    return StageCheck(folder, plan, receipts, attempts, tuple(findings), num_files)


def _damaged_records(stage: str, bad: Iterable[BadFileError]) -> tuple[Discrepancy, ...]:
    return tuple(Discrepancy(stage, "damaged record", error.path, error.what) for error in bad)


def _read_receipts(folder: StageFolder, plan: Plan, bad: BadFiles) -> tuple[dict[str, Receipt], list[Discrepancy]]:
    planned, receipts, findings = {shard.id for shard in plan.shards}, {}, []
    for shard in sorted(bad.read(folder.done, set())):
        path = folder.path / "receipts" / f"{shard}.json"
        try:
            receipt = folder.receipt(shard)
        except BadFileError as error:
            findings.append(Discrepancy(folder.name, "damaged receipt", path, error.what, shard))
            continue
        if receipt.plan != plan.fingerprint or shard not in planned:
            detail = f"of the plan {receipt.plan[:12]}, this is {plan.fingerprint[:12]}"
            detail = detail if shard in planned else f"the plan has no shard {shard}"
            findings.append(Discrepancy(folder.name, "receipt of another plan", path, detail, shard))
        else:
            receipts[shard] = receipt
    return receipts, findings


def _side_files(folder: StageFolder, plan: Plan) -> Iterator[Discrepancy]:
    if plan.sealed() != plan.fingerprint:
        yield Discrepancy(
            folder.name, "damaged plan", folder.plan_path, "its fingerprint is not that of what stands in it"
        )
    for name, sha256 in plan.files.items():
        if not is_as_frozen(folder, name, sha256):
            yield Discrepancy(folder.name, "damaged plan", folder.path / "plan" / name, "not as frozen")


def is_as_frozen(folder: StageFolder, name: str, sha256: str) -> bool:
    """Whether a side file of a plan has the content with which it was frozen."""
    *parts, last = name.split("/")
    place = folder.place / "plan"
    try:
        return sha256_in(Place(place.root, (*place.parts, *parts)), last) == sha256
    except (OSError, BadFileError):
        return False


def _stage_record(folder: StageFolder, plan: Plan, bad: BadFiles) -> Iterator[Discrepancy]:
    path = folder.path / "stage.json"
    if not folder.is_finished:
        return
    try:
        folder.facts()
    except BadFileError as error:
        yield Discrepancy(folder.name, "damaged stage.json", path, error.what)
    done = bad.read(folder.done, set())
    for shard in plan.shards:
        if shard.id not in done:
            detail = "stage.json says that the stage is done"
            yield Discrepancy(
                folder.name, "finished without a receipt", path, f"{detail}, shard {shard.id} is not", shard.id
            )


def _inputs(run: Run, stage: Mapping[str, Any], plan: Plan) -> Iterator[Discrepancy]:
    """Where an earlier stage has another digest now than when this one was planned."""
    names = {other["name"] for other in run.config["stages"]}
    for role, name in (stage.get("inputs") or {}).items():
        facts = _facts(run.stage(name)) if isinstance(name, str) and name in names else None
        if facts and role in plan.upstream and facts.get("digest") != plan.upstream[role]:
            detail = f"planned with {name} {plan.upstream[role][:12]}, which is {str(facts.get('digest'))[:12]} now"
            yield Discrepancy(stage["name"], "made of other inputs", run.stage(stage["name"]).plan_path, detail)


def _facts(folder: StageFolder) -> dict[str, Any] | None:
    """stage.json; None where it is not there or is damaged, which is a finding of that stage."""
    try:
        return folder.facts()
    except BadFileError:
        return None


def _data(
    folder: StageFolder, receipts: Mapping[str, Receipt], quick: bool, progress: Callable[[], None]
) -> list[Discrepancy]:
    gone = _pruned(folder)

    def check(entry: tuple[str, Data]) -> Discrepancy | None:
        shard, data = entry
        return None if data.name in gone else _check_data(folder, shard, data, quick)

    entries = [(receipt.shard, data) for receipt in receipts.values() for data in receipt.data]
    found = []
    with ThreadPoolExecutor(_READERS) as pool:
        for finding in pool.map(check, entries):
            progress()
            found += [finding] if finding else []
    return found


def _check_data(folder: StageFolder, shard: str, data: Data, quick: bool) -> Discrepancy | None:
    shards, path = folder.place / "shards", folder.path / "shards" / data.name
    try:
        if not shards.has(data.name):
            return Discrepancy(folder.name, "missing data", path, f"the receipt of shard {shard} names it", shard)
        size = size_in(shards, data.name)
        if size != data.bytes:
            return Discrepancy(folder.name, "damaged data", path, f"{size} bytes, {data.bytes} were recorded", shard)
        if not quick and sha256_in(shards, data.name) != data.sha256:
            return Discrepancy(folder.name, "damaged data", path, "another sha256 than recorded", shard)
    except BadFileError as error:
        return Discrepancy(folder.name, "damaged data", path, error.what, shard)
    except OSError as error:
        return Discrepancy(folder.name, "damaged data", path, f"cannot be read: {error.strerror}", shard)
    return None


def _pruned(folder: StageFolder) -> set[str]:
    """Data that a keep rule removed and may be missing: names that are not there and were recorded as removed."""
    place, shards, bad = folder.place / "pruned", folder.place / "shards", BadFiles()
    names: set[str] = set()
    for entry in bad.read(place.entries, []):
        record = bad.read(partial(place.json, entry.name, Pruned), None) if entry.name.endswith(".json") else None
        names |= set(record["data"]) if record else set()
    return {name for name in names if not bad.read(partial(shards.has, name), False)}


def _torn(folder: StageFolder, shard: str) -> Discrepancy:
    path = folder.path / "receipts" / f"{shard}.json"
    return Discrepancy(folder.name, "continues another result", path, "the shard before it was made anew", shard)


def _strays(folder: StageFolder, receipts: Mapping[str, Receipt]) -> list[Discrepancy]:
    shards = folder.place / "shards"
    named = {data.name for receipt in receipts.values() for data in receipt.data}
    return [
        Discrepancy(
            folder.name,
            "data without a receipt",
            shards.path / entry.name,
            "no readable receipt names it",
            is_damage=folder.is_finished,
        )
        for entry in shards.entries()
        if entry.name not in named
    ]
