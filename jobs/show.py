"""What the commands print: tables for people, on stdout."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cxr_core.data.findings import NO_FINDING
from cxr_core.runs.run import Run, StageFolder


def show_results(results: Sequence[Any]) -> None:
    """One line a stage: how many shards were made now and how long that took; "done" where nothing was left."""
    if not any(result.num_made for result in results):
        _print(f"done: all {sum(result.num_shards for result in results)} shards of {len(results)} stages were there")
        return
    rows = [
        (r.name, r.kind, str(r.num_shards), str(r.num_made) if r.num_made else "done before", f"{r.seconds:.1f} s")
        for r in results
    ]
    total = sum(result.seconds for result in results)
    _table(["stage", "kind", "shards", "made now", "time"], [*rows, ("all", "", "", "", f"{total:.1f} s")], right=2)


def show_estimates(config: Any, estimates: Mapping[str, Any]) -> None:
    """The plan: items, shards, files, bytes per stage, and notes below."""
    kinds = {stage.name: stage.kind for stage in config.stages}
    rows = [
        (name, kinds[name], f"{e.num_items:,}", f"{e.num_shards:,}", f"{e.num_files:,}", human_bytes(e.num_bytes))
        for name, e in estimates.items()
    ]
    files = sum(e.num_files for e in estimates.values())
    size = human_bytes(sum(e.num_bytes for e in estimates.values()))
    _table(
        ["stage", "kind", "items", "shards", "files", "bytes"],
        [*rows, ("all", "", "", "", f"{files:,}", size)],
        right=2,
    )
    for name, estimate in estimates.items():
        for note in estimate.notes:
            _print(f"{name}: {note}")


def show_status(run: Run) -> None:
    """Per stage: shards with a receipt of those planned, and the live attempts. Opens no receipt."""
    rows = [_status_row(run.stage(stage["name"]), stage["kind"]) for stage in run.config["stages"]]
    _table(["stage", "kind", "shards", "state", "now"], rows, right=2)


def _status_row(folder: StageFolder, kind: str) -> tuple[str, ...]:
    plan = folder.plan()
    if plan is None:
        return folder.name, kind, "", "not planned yet", ""
    done = len(folder.done() & {shard.id for shard in plan.shards})
    beat = _live_beat(folder.path)
    state = "done" if folder.facts() else "running" if beat else "to be finished" if done else "to do"
    return folder.name, kind, f"{done}/{len(plan.shards)}", state, beat


def _live_beat(folder: Path) -> str:
    """What the attempt that was heard last is doing; empty if none lives."""
    from cxr_core.runs.attempt import is_alive, read_beat

    living = [path for path in (folder / "attempts").glob("*") if is_alive(folder, path.name)]
    beats = [beat for beat in map(read_beat, living) if beat is not None]
    latest = max(beats, key=lambda beat: beat["time"], default=None)
    if latest is None:
        return ""
    return f"{latest.get('doing', '')} {latest.get('done', 0)}/{latest.get('total', '?')} (attempt on {latest['host']})"


def show_summary(dataset: Any) -> None:
    """Images and patients per split, view and finding."""
    rows, info = dataset.rows, dataset.info
    splits = sorted(rows["split"].unique())
    _print(f"{dataset.folder}: {info.num_images:,} images of {info.size} px in {len(info.shards)} shards")
    _print(f"digest {info.digest}")

    def line(name: str, mask: Any) -> tuple[str, ...]:
        return (
            name,
            *(f"{int((mask & (rows['split'] == split)).sum()):,}" for split in splits),
            f"{int(mask.sum()):,}",
        )

    lines = [line("images", rows["image_id"].notna())]
    patients = [rows.loc[rows["split"] == split, "patient_id"].nunique() for split in splits]
    lines.append(("patients", *(f"{n:,}" for n in patients), f"{rows['patient_id'].nunique():,}"))
    lines += [line(f"view {view or 'unknown'}", rows["view"] == view) for view in sorted(rows["view"].unique())]
    has = dataset.label_matrix(rows) == 1
    lines += [line(NO_FINDING, ~has.any(axis=1))]
    lines += [line(name, has[:, i]) for i, name in enumerate(info.findings)]
    _table(["", *splits, "all"], lines, right=1)


def show_findings(findings: Iterable[tuple[str, Any]]) -> bool:
    """A line a finding as soon as it is known, its mend below it, and a count. Returns whether nothing failed."""
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for name, finding in findings:
        counts[finding.level] += 1
        _print(f"{finding.level:<5} {name:<13} {finding.fact}")
        if finding.fix and finding.level != "ok":
            _print(f"{'':<19} -> {finding.fix}")
    _print(", ".join(f"{number} {level}" for level, number in counts.items()))
    return not counts["fail"]


def human_bytes(number: float) -> str:
    """Bytes in decimal units, as disks and quotas count them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} PB"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: int) -> None:
    """A table whose columns from number `right` on are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _print(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False).print(text)
