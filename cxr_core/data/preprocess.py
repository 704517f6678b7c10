"""The work of the preprocess stage: radiographs of any source to a Dataset of grey squares of one size."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.captions import warning
from cxr_core.data.dataset import (
    BOX,
    ShardWriter,
    committed_rows,
    committed_tars,
    dataset_digest,
    write_index,
    write_parquet,
)
from cxr_core.data.duplicates import drop_duplicates
from cxr_core.data.prepare import check_white, findings_of, prepare
from cxr_core.data.problems import ACTIONS, CASES, decide, problem, read_problems, sum_up, write_problems
from cxr_core.data.settings import PhantomData, PreprocessStage
from cxr_core.data.sources import plan_source
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.progress import bar
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.runs.tables import read_group, read_table
from cxr_core.settings import without_paths

log = room_log(__name__)

SOURCE = pa.schema(
    [
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("view", pa.string()),
        ("age", pa.float64()),
        ("sex", pa.string()),
        ("follow_up", pa.int64()),
        ("labels", pa.int64()),
        ("boxes", pa.list_(BOX)),  # in the frame of the source's box list, see `box_frame` of its settings
        ("prompt", pa.string()),
        ("file", pa.string()),
        ("signs", pa.string()),  # of a phantom, JSON
    ]
)
"""Columns of plan/source.parquet: what each image is made from. A row group is a shard."""

_BOXED = "boxed.json"


def estimate(settings: PreprocessStage) -> Estimate:
    """Size of the Dataset, and what is worth saying of its captions."""
    data, notes = settings.data, list[str]()
    if isinstance(data, PhantomData) and settings.num_images is None:
        num_items = data.num_images
    else:
        plan = plan_source(settings)
        check_white(settings, plan.rows["file"].to_list())
        num_items = len(plan.rows)
        notes = [*plan.notes, *warning(plan.rows[plan.rows["split"] == "train"], plan.findings)]
    return replace(size_of(settings, num_items), notes=notes)


def size_of(settings: PreprocessStage, num_items: int) -> Estimate:
    """Of so many images: half a byte a pixel, 3 kB of metadata an image (tar blocks of 512 bytes), 20 kB a shard."""
    num_shards = len(slices(num_items, settings.shard_size))
    num_bytes = num_items * (settings.size**2 // 2 + 3000) + num_shards * 20_000
    return Estimate(num_items, num_shards, 3 * num_shards + 7, num_bytes, image_size=settings.size)


def freeze(settings: PreprocessStage, work: Path) -> Draft:
    """Plan the source; write source.parquet, problems.csv and, where patients were moved, boxed.json into `work`."""
    plan = plan_source(settings)
    check_white(settings, plan.rows["file"].to_list())
    for note in plan.notes:
        log.info("%s: %s", settings.name, note)
    table = pa.Table.from_pandas(plan.rows[SOURCE.names], schema=SOURCE, preserve_index=False)
    pq.write_table(table, work / "source.parquet", row_group_size=settings.shard_size, compression="zstd")
    write_problems(work / "problems.csv", sum_up(plan.problems, work))
    if plan.boxed:
        write_json(work / _BOXED, plan.boxed.model_dump(mode="json"))
    return Draft(slices(len(plan.rows), settings.shard_size))


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Prepare the images of one shard. Raises UserError for an oddity whose policy is "fail"."""
    settings: PreprocessStage = context.settings
    start = time.monotonic()
    source = context.plan_folder / "source.parquet"
    rows = read_group(source, shard.start // settings.shard_size).to_pylist()
    problems: list[dict[str, str]] = []
    sizes: Counter[str] = Counter()
    cv2.setNumThreads(1)  # the pool below is what uses the threads
    with (
        ShardWriter(work / "images.tar", findings_of(settings)) as writer,
        bar(f"shard {shard.id}", len(rows)) as progress,
    ):
        for prepared in in_order(partial(prepare, settings), rows, settings.threads):
            problems += prepared.problems
            if prepared.row is not None:
                writer.add(prepared.png, prepared.row)
                sizes[_size_key(*prepared.source_size)] += 1
            progress.advance()
    table = writer.rows()
    write_parquet(work / "rows.parquet", table)
    num_enlarged = sum(found["kind"] == "enlarged" and found["action"] != "left out" for found in problems)
    counts = {"images": len(table), "left_out": len(rows) - len(table), "enlarged": num_enlarged, **sizes}
    return Output(
        paths={"tar": work / "images.tar", "rows": work / "rows.parquet"},
        digest=dataset_digest(table.to_pandas()),
        counts=counts,
        problems=problems,
        seconds={"images": round(time.monotonic() - start, 3)},
    )


def finalize(context: Context, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Drop duplicates, write problems.csv, index.parquet and, last, dataset.json. Returns the facts of stage.json."""
    settings: PreprocessStage = context.settings
    files = read_table(context.plan_folder / "source.parquet", columns=["image_id", "file"]).to_pandas()
    written = committed_rows(context.folder, receipts)
    rows, duplicates = drop_duplicates(
        written, settings.policies, dict(zip(files["image_id"], files["file"], strict=True))
    )
    planned = read_problems(context.plan_folder / "problems.csv")
    of_shards = (found for receipt in receipts for found in receipt.problems)
    sizes = _mixed_sizes(settings, receipts)
    num_problems = write_problems(context.folder / "problems.csv", planned, of_shards, duplicates, sizes)
    if rows.empty:
        raise UserError(
            f"no image is left of {len(files)}; problems: {num_problems}",
            where=str(context.folder / "problems.csv"),
            hint="correct `white`, `expect_size` or `policies`, and start a run under another name",
        )
    info = write_index(
        context.folder,
        rows,
        committed_tars(context.folder, receipts),
        findings=findings_of(settings),
        size=settings.size,
        about={
            # Paths are in the run's config: dataset.json goes to others.
            "source": without_paths(settings.data),
            "prompts": without_paths(settings.prompts),
            "problems": num_problems,
            "left_out": sorted(set(written["image_id"]) - set(rows["image_id"])),
            "boxed_split": read_json(boxed) if (boxed := context.plan_folder / _BOXED).is_file() else None,
        },
    )
    splits = {str(split): int(num) for split, num in rows["split"].value_counts().sort_index().items()}
    num_enlarged = sum(receipt.counts["enlarged"] for receipt in receipts)
    return {
        "digest": info.digest,
        "num_images": info.num_images,
        "num_patients": int(rows["patient_id"].nunique()),
        "num_enlarged": num_enlarged,
        "splits": splits,
        "problems": num_problems,
    }


_SIZE = "file size "


def _size_key(width: int, height: int) -> str:
    """Under what a receipt counts the image files of one size."""
    return f"{_SIZE}{width} x {height}"


def _mixed_sizes(settings: PreprocessStage, receipts: Sequence[Receipt]) -> list[dict[str, str]]:
    """One problem where the image files have several sizes, for those that have not the commonest.

    Raises UserError where its policy is fail.
    """
    sizes: Counter[str] = Counter()
    for receipt in receipts:
        sizes.update({key.removeprefix(_SIZE): num for key, num in receipt.counts.items() if key.startswith(_SIZE)})
    if len(sizes) < 2:
        return []
    said = ", ".join(f"{size} ({num})" for size, num in sizes.most_common(_SIZES_SAID))
    more = f" and {len(sizes) - _SIZES_SAID} more" if len(sizes) > _SIZES_SAID else ""
    detail = f"files of {len(sizes)} sizes: {said}{more}"
    policy = decide(settings.policies, "mixed_sizes", file=f"stage {settings.name}", detail=detail)
    num_others = sizes.total() - sizes.most_common(1)[0][1]
    return [problem("mixed_sizes", "", "", detail, ACTIONS[policy]) | {CASES: str(num_others)}]


_SIZES_SAID = 5
