"""What a form of export decides: where an image's file lies, what is in it, and the tables beside the files."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset, boxes_text

FILES_A_FOLDER = 10_000
"""More files in one folder make file systems of clusters slow; NIH's own folders hold about as many."""

_PLAIN = re.compile(r"(?!__)\w[\w .,()+=@-]*")
_MOST_BYTES = 200
"""Of a name without its ending; a file system takes 255, and a file that is being written has a longer name."""

_COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("labels", pa.string()),  # `Effusion|Mass`
        ("patient_id", pa.string()),  # "" for a synthetic image
        ("split", pa.string()),
        ("view", pa.string()),  # "" when unknown
        ("age", pa.float64()),  # years; null when unknown
        ("sex", pa.string()),
        ("follow_up", pa.int64()),
        ("boxes", pa.string()),  # JSON, see `boxes_text`
        ("prompt", pa.string()),
        ("seed", pa.int64()),  # null for a real image
        ("generation", pa.string()),
        ("synthetic", pa.bool_()),
    ]
)
_TAKEN = {*_COLUMNS.names, "file_name", "image"}
"""Names that a finding's column cannot have: ours, and those that `datasets` gives a meaning."""


class Layout(Protocol):
    """One form, of one Dataset."""

    def path(self, number: int, row: Any) -> str:
        """Where the file of the image `row` (a namedtuple of the index), counted from 0, lies in the folder."""

    def content(self, row: Any) -> bytes:
        """The bytes of that file: the same for the same row."""

    def finish(self, folder: Path) -> None:
        """Write the tables beside the files."""


def file_stem(image_id: str) -> str:
    """A file name without ending that every reader opens: the id itself, or a hash of one that is long or odd.

    Odd are ids that begin with a dot or with two underscores, which `datasets` passes over, and ids with signs that it
    takes for patterns. The tables say which file is which image.
    """
    if _PLAIN.fullmatch(image_id) and len(image_id.encode()) <= _MOST_BYTES:
        return image_id
    return f"id-{hashlib.sha256(image_id.encode()).hexdigest()[:32]}"


def typed_table(dataset: Dataset, file_names: Sequence[str]) -> pa.Table:
    """A row an image, in the index's order: its file, what the index says, and a column of 0 and 1 for each finding.

    Every column has one type, whatever is in it: identities are texts, and one that is empty is not of type null. A
    finding that is called like another column has " (finding)" after its name.
    """
    rows = dataset.rows
    values = {
        **{name: rows[name] for name in _COLUMNS.names if name in rows},
        "labels": [dataset.findings.text(bits) for bits in rows["labels"]],
        "boxes": [boxes_text(boxes) for boxes in rows["boxes"]],
        "synthetic": [dataset.info.synthetic] * len(rows),
    }
    columns = [pa.array(values[field.name], field.type, from_pandas=True) for field in _COLUMNS]
    matrix = dataset.label_matrix(rows).astype("int64")
    findings = [f"{name} (finding)" if name in _TAKEN else name for name in dataset.findings.names]
    table = pa.table(
        [pa.array(file_names, pa.string()), *columns, *map(pa.array, matrix.T)],
        names=["file_name", *_COLUMNS.names, *findings],
    )
    return marked(table, dataset)


def marked(table: pa.Table, dataset: Dataset) -> pa.Table:
    """With the note in the file's metadata that it is internal, if it is of real images."""
    return table if dataset.info.synthetic else table.replace_schema_metadata({"access": INTERNAL})
