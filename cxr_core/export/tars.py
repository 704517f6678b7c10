"""WebDataset shards of one split each, `train-00000.tar` ...: what the index holds, in the types of today.

The shards of a Dataset itself hold all splits, and perhaps duplicates that its index leaves out; those of older
versions hold boxes in a form from which readers do not learn their type.
"""

from pathlib import Path

import pandas as pd

from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset, ShardWriter
from cxr_core.export.imagefolder import SPLITS
from cxr_core.runs.files import atomic_path
from cxr_core.runs.progress import bar

IMAGES_A_TAR = 1000


def write_tars(dataset: Dataset, folder: Path) -> None:
    """Write all images of the index; a tar that is there stays."""
    rows = dataset.rows
    with bar("export: images", len(rows)) as progress:
        for split, some in rows.groupby(rows["split"].map(SPLITS)):
            for number, start in enumerate(range(0, len(some), IMAGES_A_TAR)):
                part, path = some.iloc[start : start + IMAGES_A_TAR], folder / f"{split}-{number:05d}.tar"
                if not path.exists():
                    _write_tar(dataset, part, path)
                progress.advance(len(part))


def _write_tar(dataset: Dataset, rows: pd.DataFrame, path: Path) -> None:
    notes = {} if dataset.info.synthetic else {"access": INTERNAL}
    with atomic_path(path) as temporary, ShardWriter(temporary, dataset.findings, notes) as writer:
        for row in rows.itertuples():
            writer.add(dataset.png(row), {name: getattr(row, name) for name in rows.columns})
