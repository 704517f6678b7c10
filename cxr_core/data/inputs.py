"""Whether the radiographs and tables that a preprocess stage was planned from are still what they were.

What decides is what is made of them. Where a table is another file, the plan is made anew and compared row by row;
where an image has another size or time, it is read anew and compared with what the Dataset holds of it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.data.paths import spelled, unspelled
from cxr_core.data.prepare import findings_of, prepare
from cxr_core.data.settings import ChestXray14Data, PhantomData, PreprocessStage
from cxr_core.data.sources import plan_source
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from cxr_core.runs.files import atomic_path
from cxr_core.runs.plan import Plan
from cxr_core.runs.progress import bar
from cxr_core.runs.run import StageFolder
from cxr_core.runs.sources import NO_PLAN, paths_named
from cxr_core.runs.stage import Context
from cxr_core.runs.tables import read_table

RECORD = "source_images.parquet"
"""In the stage's folder: path, size and time of each image and, without an image id, of the folders they lie in."""

_STATED, _MOST_NAMED = 4, 5
_TABLES = (".csv", ".csv.gz", ".tsv", ".txt", ".json")
"""Endings of files in a folder that the config names: archives of images may lie there too."""

_COMPARED = ("patient_id", "split", "view", "age", "sex", "follow_up", "labels", "boxes", "prompt")


def tables(settings: PreprocessStage) -> list[Path]:
    """All files but images that the stage reads: tables, lists, boxes, and what counts tokens."""
    images = set(_image_folders(settings)) - {getattr(settings.data, "metadata", None)}
    named = set(paths_named(settings)) - images
    folders = {path for path in named if path.is_dir()}
    beside = (file for folder in folders for file in folder.iterdir() if file.name.lower().endswith(_TABLES))
    return sorted({file for file in beside if file.is_file()} | (named - folders))


def _image_folders(settings: PreprocessStage) -> tuple[Path, ...]:
    data = settings.data
    if isinstance(data, PhantomData):
        return ()
    return tuple(data.images) or ((data.metadata,) if isinstance(data, ChestXray14Data) else ())


def record(context: Context) -> None:
    """Write down size and time of the images of a plan that was just frozen."""
    if not isinstance(context.settings.data, PhantomData):
        rows = read_table(context.plan_folder / "source.parquet", columns=["image_id", "file"]).to_pandas()
        _write(context, _seen(context.settings, rows))


def changes(context: Context, plan: Plan, changed_tables: Sequence[str], *, is_finished: bool) -> list[str]:
    """What is otherwise than when the plan was frozen and images were read, a line each; none where it comes to the
    same. Costs one `stat` an image where nothing has changed.

    Raises UserError where no plan can be made of the inputs of now.
    """
    if isinstance(context.settings.data, PhantomData):
        return list(changed_tables)
    if not (context.folder / RECORD).exists():  # of a plan from before there were such records
        record(context)
        return list(changed_tables)
    before = read_table(context.folder / RECORD).to_pandas()
    now = before.assign(**_states(before["file"]))
    images = before["image_id"] != ""
    gone = now["size"] < 0
    if is_finished and gone[images].all():
        # Put away: the Dataset holds all that is needed of them.
        return list(changed_tables)
    differs = (now["size"] != before["size"]) | (now["modified"] != before["modified"])
    if not changed_tables and not differs.any():
        return []
    return _look_closer(
        context, plan, changed_tables, now[images], differs[images], anew=bool(gone.any() or differs[~images].any())
    )


def _look_closer(
    context: Context, plan: Plan, changed_tables: Sequence[str], now: pd.DataFrame, differs: pd.Series, *, anew: bool
) -> list[str]:
    """By what comes of the tables (where one differs, or an image is gone or new) and of the images that differ."""
    old = read_table(context.plan_folder / "source.parquet").to_pandas()
    rows = old
    if changed_tables or anew:
        try:
            rows = plan_source(context.settings).rows
        except UserError as error:
            return [*changed_tables, f"{NO_PLAN}: {error.where}: {error.what}"]
        lines = list(_row_changes(old, rows, findings_of(context.settings)))
        if lines:
            return [*changed_tables, *lines]
    known = dict(zip(now["image_id"], now["file"], strict=True))
    suspect = set(now.loc[differs, "image_id"])
    asked = [
        row for row in rows.to_dict("records") if row["image_id"] in suspect or known[row["image_id"]] != row["file"]
    ]
    lines = _image_changes(context, plan, old["image_id"], asked, known)
    if not lines:
        _write(context, _seen(context.settings, rows[["image_id", "file"]]))
    return lines


def _row_changes(old: pd.DataFrame, new: pd.DataFrame, findings: Findings) -> Iterator[str]:
    """Rows that are there no more, are new, or say something else."""
    before, after = (frame.set_index("image_id") for frame in (old, new))
    for word, names in (
        ("without a row or a file now", before.index.difference(after.index)),
        ("not there before", after.index.difference(before.index)),
    ):
        if len(names):
            yield f"{_count(len(names), 'image')} {word}: {_listed(names)}"
    both = before.index.intersection(after.index)
    told = {
        name: "; ".join(_cells(before.loc[name], after.loc[name], findings)) for name in _differing(before, after, both)
    }
    if told:
        yield f"{_count(len(told), 'row')} changed: " + _listed([f"{name} ({text})" for name, text in told.items()])


def _differing(before: pd.DataFrame, after: pd.DataFrame, names: pd.Index) -> list[str]:
    differs = pd.Series(False, index=names)
    for column in _columns(before, after):
        pairs = zip(before.loc[names, column], after.loc[names, column], strict=True)
        differs |= pd.Series([not _same(old, new) for old, new in pairs], index=names)
    return [str(name) for name in names[differs]]


def _columns(old: Any, new: Any) -> list[str]:
    """What is compared of a row: another version may have other columns."""
    return [name for name in _COMPARED if name in old and name in new]


def _same(old: Any, new: Any) -> bool:
    if hasattr(old, "__len__") and not isinstance(old, str):
        return [dict(box) for box in old] == [dict(box) for box in new]
    return bool(old == new or (pd.isna(old) and pd.isna(new)))


def _cells(old: Any, new: Any, findings: Findings) -> Iterator[str]:
    """The cells of a row that differ, in words."""
    spell = {
        "labels": lambda bits: "|".join(findings.decode(bits)),
        "boxes": lambda boxes: (
            ", ".join(f"{box['finding']} {[box[name] for name in 'xywh']}" for box in boxes) or "none"
        ),
    }
    differing = [column for column in _columns(old, new) if not _same(old[column], new[column])]
    for column in differing:
        if column != "prompt" or differing == ["prompt"]:  # it follows from the others
            words = spell.get(column, str)
            yield f"{column} {words(old[column])} -> {words(new[column])}"


def _image_changes(
    context: Context, plan: Plan, ids: pd.Series, rows: Sequence[Mapping[str, Any]], known: Mapping[str, str]
) -> list[str]:
    """Images that are not what a shard was made of, by reading them anew; and those to be read yet that have moved."""
    made = _made(context, plan, ids, {row["image_id"] for row in rows})
    done = [row for row in rows if row["image_id"] in made]
    left = [row for row in rows if row["image_id"] not in made]
    changed = list(_not_as_made(context.settings, made, done)) if done else []
    moved = [row["file"] for row in left if known[row["image_id"]] != row["file"]]
    found = [(changed, "changed"), (moved, "moved")]
    return [f"{_count(len(names), 'image')} {word}: {_listed(names)}" for names, word in found if names]


def _not_as_made(
    settings: PreprocessStage, made: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    same = in_order(partial(_is_as_made, settings, made), rows, settings.threads)
    with bar("compare images", len(rows)) as progress:
        for row, is_same in zip(rows, same, strict=True):
            progress.advance()
            if not is_same:
                yield row["file"]


def _made(context: Context, plan: Plan, ids: pd.Series, wanted: set[str]) -> dict[str, Any]:
    """Image id -> what the shards that are done made of it: the digest of its pixels, or why it was left out."""
    folder = StageFolder(context.folder)
    found: dict[str, Any] = {}
    done = folder.done()
    for shard in plan.shards:
        names = set(ids.iloc[shard.start : shard.stop]) & wanted
        if not names or shard.id not in done:
            continue
        receipt = folder.receipt(shard.id)
        rows = read_table(receipt.path(context.folder, "rows"), columns=["image_id", "source_sha256"]).to_pandas()
        found |= {name: _kinds(receipt.problems, name) for name in names}
        found |= {name: sha256 for name, sha256 in rows.itertuples(index=False) if name in names}
    return found


def _is_as_made(settings: PreprocessStage, made: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    try:
        prepared = prepare(settings, row)
    except UserError:
        return False
    image_id = row["image_id"]
    now = prepared.row["source_sha256"] if prepared.row else _kinds(prepared.problems, image_id)
    return bool(now == made[image_id])


def _kinds(problems: Iterable[Mapping[str, str]], image_id: str) -> tuple[str, ...]:
    return tuple(sorted(each["kind"] for each in problems if each["image_id"] == image_id))


def _seen(settings: PreprocessStage, rows: pd.DataFrame) -> pd.DataFrame:
    """The record of images as they are now, and of every folder between them and those that the config names."""
    roots = {str(folder) for folder in _image_folders(settings)}
    parents = {os.path.dirname(unspelled(file)) for file in rows["file"]}  # noqa: PTH120 - see `find_images`
    folders = {spelled(name) for parent in parents for name in _up_to(parent, roots)}
    beside = pd.DataFrame({"image_id": "", "file": sorted(folders | roots)})
    seen = pd.concat([rows[["image_id", "file"]], beside], ignore_index=True)
    return seen.assign(**_states(seen["file"]))


def _up_to(folder: str, roots: set[str]) -> Iterator[str]:
    while folder not in roots and folder != os.path.dirname(folder):  # noqa: PTH120 - see `find_images`
        yield folder
        folder = os.path.dirname(folder)  # noqa: PTH120


def _states(files: pd.Series) -> dict[str, list[int]]:
    """Size and time of each file; -1 where there is none. Several at once: a network answers each after a while."""
    parts = [files.iloc[start : start + 1000] for start in range(0, len(files), 1000)]
    with ThreadPoolExecutor(_STATED) as pool:
        found = [state for states in pool.map(_state_of_many, parts) for state in states]
    return {"size": [size for size, _ in found], "modified": [modified for _, modified in found]}


def _state_of_many(files: Iterable[str]) -> list[tuple[int, int]]:
    return [_state(file) for file in files]


def _state(file: str) -> tuple[int, int]:
    try:
        found = os.stat(unspelled(file))  # noqa: PTH116 - a hundred thousand Path objects take a second
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _write(context: Context, seen: pd.DataFrame) -> None:
    with atomic_path(context.folder / RECORD) as temporary:
        seen.to_parquet(temporary, index=False)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
