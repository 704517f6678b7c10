"""The commands that look after a run: compare it with its receipts, repair it, clear it up, and tell what happened."""

import logging
from contextlib import suppress

from cxr_core.errors import UserError
from cxr_core.log import shown_level
from cxr_core.runs.door import BadFileError, BadFiles
from cxr_core.runs.gc import Garbage, garbage
from cxr_core.runs.logs import stage_log
from cxr_core.runs.progress import bar
from cxr_core.runs.repair import Repair, repair_run
from cxr_core.runs.run import Run
from cxr_core.runs.verify import StageCheck, verify_run
from cxr_core.shown import say, say_line
from jobs.show import human_bytes, show_garbage


def verify(run: Run, *, repair: bool, quick: bool) -> None:
    """Print what is not as recorded and, if asked, set it aside. Raises UserError where damage is left."""
    num_receipts = sum(len(BadFiles().read(run.stage(each["name"]).done, set())) for each in run.config["stages"])
    with bar("verify", num_receipts) as progress:
        checks = verify_run(run, quick=quick, progress=progress.advance)
    findings = [finding for check in checks for finding in check.findings]
    for finding in findings:
        say(str(finding))
    damage = [finding for finding in findings if finding.is_damage]
    if not damage:
        say(_all_well(run, checks, quick))
    elif repair:
        for done in repair_run(checks):
            say(_repaired(done))
        say(f"now run it again (`cxr run CONFIG` or `cxr resume {run.root}`): only what is missing will be made")
    else:
        raise UserError(
            f"{len(damage)} {'thing is' if len(damage) == 1 else 'things are'} not as recorded (listed above)",
            where=str(run.root),
            hint=f"`cxr verify {run.root} --repair` sets the damage aside; then run again",
        )


def _all_well(run: Run, checks: list[StageCheck], quick: bool) -> str:
    num_receipts, num_files = (sum(x) for x in zip(*((len(c.receipts), c.num_files) for c in checks), strict=True))
    how = "by size" if quick else "by size and sha256"
    return f"{run.root}: {num_receipts:,} receipts and {num_files:,} data files are as recorded, {how}"


def _repaired(done: Repair) -> str:
    parts = [f"shards {', '.join(done.shards)}"] if done.shards else []
    parts += ["its plan"] if done.plan else []
    parts += [f"{done.records} other {'record' if done.records == 1 else 'records'}"] if done.records else []
    what = "the whole stage" if done.whole_stage else " and ".join(parts) or "data without a receipt, or stage.json"
    return f"{done.stage}: set aside in {done.quarantine}: {what}"


def clear_up(run: Run, *, yes: bool) -> None:
    """List what may go and, if `yes`, remove it."""
    found, bad = garbage(run)
    show_garbage(found)
    gone = [each for each in found if _removed(each, bad)] if yes else found
    for error in bad:
        say_line(f"left as it is: {error.where}: {error.what}")
    if found:
        size = human_bytes(sum(each.bytes for each in gone))
        say(f"removed: {size}" if yes else f"nothing was removed; `cxr gc {run.root} --yes` removes these {size}")
    else:
        say(f"{run.root}: nothing that could go")


def _removed(each: Garbage, bad: BadFiles) -> bool:
    bad.read(each.remove, None)
    return not each.place.has(each.name)


def show_logs(run: Run, stage: str | None, shard: str | None) -> None:
    """Print what happened in a run, a stage or a shard. Raises UserError if there is no such stage or shard."""
    names = [entry["name"] for entry in run.config["stages"]]
    if stage is not None and stage not in names:
        raise UserError(f"no stage {stage!r}", where=str(run.root), hint=f"there are: {', '.join(names)}")
    for name in [stage] if stage else names:
        folder = run.stage(name)
        plan = None
        with suppress(BadFileError):  # its line stands below, with the others
            plan = folder.plan() if shard is not None else None
        if plan is not None and shard not in {planned.id for planned in plan.shards}:
            ids = [planned.id for planned in plan.shards]
            hint = f"its {len(ids)} shards are named {ids[0]} to {ids[-1]}" if ids else "its plan has none"
            raise UserError(f"stage {name!r} has no shard {shard!r}", where=str(folder.plan_path), hint=hint)
        lines = list(stage_log(folder.path, shard, level=min(shown_level(), logging.INFO)))
        for line in lines:
            say_line(f"{name}: {line}" if line.startswith("attempt") else line)
        if not lines and stage:
            say(f"{name}: no attempt has worked on {'shard ' + shard if shard else 'it'} yet")
