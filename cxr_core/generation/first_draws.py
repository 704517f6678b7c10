"""A sample of first draws, passed by the gate or not: what an evaluation needs to say what the gate changed."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cxr_core.data.dataset import (
    FIRST_DRAWS,
    SCHEMA,
    Dataset,
    DatasetInfo,
    ShardInfo,
    committed_parts,
    write_index_of_parts,
)
from cxr_core.data.findings import Findings
from cxr_core.runs.receipt import Receipt
from cxr_core.seeds import unit_hash

FOLDER = FIRST_DRAWS
TAR, ROWS = "first_tar", "first_rows"
"""Roles of a shard's data."""


def is_sampled(image_id: str, wanted: int, num_images: int) -> bool:
    """Whether an image is of a sample of about `wanted` out of `num_images`: a function of its id alone."""
    return unit_hash("first draw", image_id) * num_images < wanted


def write_index(
    stage_folder: Path, receipts: Sequence[Receipt], *, findings: Findings, size: int, about: dict[str, object]
) -> DatasetInfo | None:
    """Make the Dataset `first_draws/` of what shards kept; None where none kept any. Its tars stay where they are."""
    kept = [receipt for receipt in receipts if any(data.role == TAR for data in receipt.data)]
    if not kept:
        return None
    folder = stage_folder / FOLDER
    folder.mkdir(exist_ok=True)
    parts = list(committed_parts(stage_folder, kept, rows_role=ROWS, tar_role=TAR))
    tars: list[ShardInfo] = [
        {"name": f"../shards/{data.name}", "bytes": data.bytes, "sha256": data.sha256, "num_images": len(part)}
        for receipt, part in zip(kept, parts, strict=True)
        for data in receipt.data
        if data.role == TAR
    ]
    return write_index_of_parts(
        folder, map(_from_within, parts), tars, findings=findings, size=size, synthetic=True, about=about
    )


def _from_within(part: pa.Table) -> pa.Table:
    """Rows whose tars are named as seen from the folder of this Dataset."""
    names = pa.array([f"../{name}" for name in part["shard"].to_pylist()], pa.string())
    return part.set_column(SCHEMA.get_field_index("shard"), "shard", names)


def open_first_draws(synthetic: Dataset) -> Dataset | None:
    """The sample of a synthetic Dataset; None where it has none."""
    folder = synthetic.folder / FOLDER
    return Dataset.open(folder) if (folder / "dataset.json").is_file() else None
