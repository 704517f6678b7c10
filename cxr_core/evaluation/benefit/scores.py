"""What a trained classifier leaves behind: its scores of the test images, and its loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_core.data.dataset import write_parquet
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output
from cxr_core.runs.tables import read_table


def write_scores(
    image_ids: Sequence[str], scores: np.ndarray, findings: Sequence[str], loss: float, work: Path
) -> Output:
    """Write `scores.parquet` (a column a finding) and `classifier.json` of scores float32 (n, findings)."""
    columns = dict(zip(findings, scores.T, strict=True))
    write_parquet(work / "scores.parquet", pa.table({"image_id": list(image_ids), **columns}))
    write_json(work / "classifier.json", {"format": 1, "final_loss": loss})
    content = [list(image_ids), scores.tolist(), repr(loss)]
    return Output(
        paths={"scores": work / "scores.parquet", "classifier": work / "classifier.json"},
        digest=sha256_text(canonical_json(content)),
        counts={"test_images": len(image_ids)},
    )


def read_scores(receipt: Receipt, stage_folder: Path) -> tuple[np.ndarray, float]:
    """Scores float64 (n, findings) of the test images in the cohort's order, and the final loss, of one classifier."""
    table = read_table(receipt.path(stage_folder, "scores")).drop_columns(["image_id"])
    scores = np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float64)
    return scores, float(read_json(receipt.path(stage_folder, "classifier"))["final_loss"])
