"""Pictures of real beside synthetic images, one per finding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset, pixel_sha256
from cxr_core.data.findings import NO_FINDING
from cxr_core.data.png import encode_grey
from cxr_core.data.sheet import contact_sheet
from cxr_core.evaluation.metrics import Grid
from cxr_core.evaluation.pools import has_finding, in_hash_order
from cxr_core.evaluation.settings import Grids
from cxr_core.runs.files import canonical_json, sha256_text, write_atomic, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Output

_TILE = 160
_LARGEST = 256
_MOST_FINDINGS = 6


def findings_shown(grids: Grids, synthetic: Dataset) -> list[str]:
    """The findings of the settings, or those with the most synthetic images."""
    if grids.findings:
        return list(grids.findings)
    names = (NO_FINDING, *synthetic.info.findings)
    labels = synthetic.rows["labels"]
    counts = {name: int(has_finding(labels, name, "any", synthetic.findings).sum()) for name in names}
    return sorted((name for name in names if counts[name]), key=lambda name: -counts[name])[:_MOST_FINDINGS]


def draw_grids(names: Sequence[str], grids: Grids, real: Dataset, synthetic: Dataset, seed: int, work: Path) -> Output:
    """Write one PNG per finding into `work` (role `grid00` ...) and grids.json, the list of them."""
    train = real.rows[real.rows["split"] == "train"]
    paths, listed, digests = {}, [], []
    for i, name in enumerate(names):
        shown, drawn = (_choose(rows, name, real, seed) for rows in (train, synthetic.rows))
        num_columns = min(grids.num_columns, len(shown), len(drawn))
        listed.append({"finding": name, "num_columns": num_columns})
        if num_columns:
            sheet = _sheet(shown.head(num_columns), drawn.head(num_columns), name, real, synthetic)
            paths[f"grid{i:02d}"] = work / f"grid{i:02d}.png"
            write_atomic(paths[f"grid{i:02d}"], encode_grey(sheet))
            digests.append(pixel_sha256(sheet))
    write_json(work / "grids.json", {"format": 1, "grids": listed})
    return Output(
        paths={**paths, "list": work / "grids.json"},
        digest=sha256_text(canonical_json([listed, digests])),
        counts={"pictures": len(paths)},
    )


def committed_grids(listed: Sequence[Mapping[str, Any]], receipt: Receipt) -> tuple[Grid, ...]:
    """The pictures' part of metrics.json, from the list in grids.json and the shard's receipt."""
    names = {data.role: f"shards/{data.name}" for data in receipt.data}
    return tuple(Grid(**grid, path=names.get(f"grid{i:02d}")) for i, grid in enumerate(listed))


def _choose(rows: pd.DataFrame, name: str, real: Dataset, seed: int) -> pd.DataFrame:
    """Images with the finding in a fixed order by chance, those with nothing else first."""
    found = in_hash_order(rows[has_finding(rows["labels"], name, "any", real.findings)], seed, f"picture of {name}")
    alone = has_finding(found["labels"], name, "only", real.findings)
    return pd.concat([found[alone], found[~alone]])


def _sheet(shown: pd.DataFrame, drawn: pd.DataFrame, name: str, real: Dataset, synthetic: Dataset) -> np.ndarray:
    """Real images above, synthetic ones below: uint8 (height, width)."""
    side = min(_LARGEST, max(real.info.size, synthetic.info.size))
    images, texts = [], []
    for source, dataset, rows in (("real", real, shown), ("synthetic", synthetic, drawn)):
        for row in rows.itertuples():
            images.append(fit(dataset.image(row), side))
            texts.append(_caption(row, source, name, dataset))
    return contact_sheet(np.stack(images), texts, columns=len(shown), scale=max(1, _TILE // side))


def _caption(row: Any, source: str, name: str, dataset: Dataset) -> str:
    others = [f"+{other}" for other in dataset.findings.decode(row.labels) if other != name]
    return " ".join((source, row.view, *others))


def fit(image: np.ndarray, side: int) -> np.ndarray:
    how = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_NEAREST
    return cv2.resize(image, (side, side), interpolation=how)
