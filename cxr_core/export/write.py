"""Export a Dataset into a new folder, which appears at the end and complete; a killed export goes on where it was."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cxr_core.data.dataset import Dataset
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from cxr_core.export.card import card
from cxr_core.export.dicom import Dicom
from cxr_core.export.imagefolder import ImageFolder
from cxr_core.export.layout import Layout
from cxr_core.export.nih import NihLayout
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.progress import bar

LAYOUTS: Mapping[str, Callable[[Dataset], Layout]] = {"imagefolder": ImageFolder, "nih": NihLayout, "dicom": Dicom}

_THREADS = 8
"""Files are small, and a file system of a cluster answers many at once."""


def export(dataset: Dataset, out: Path, form: str) -> None:
    """Write all images of a Dataset, their tables and a card to the new folder `out`.

    Raises UserError where `out` exists, where another export was begun in its place, or for real images as DICOM.
    """
    if out.exists():
        raise UserError("the folder to export to is there already", where=str(out), mend="name a new one")
    layout = LAYOUTS[form](dataset)
    part = _begun(out, {"dataset": dataset.info.digest, "form": form})
    _write_files(dataset, layout, part)
    layout.finish(part)
    (part / "README.md").write_text(card(dataset))
    (part / _MARK).unlink()
    # Once for all: a sync of each of a hundred thousand files takes an hour.
    os.sync()
    part.rename(out)


_MARK = "export.json"


def _begun(out: Path, what: Mapping[str, str]) -> Path:
    """The unfinished folder, perhaps with files that an export of the same left when it was killed."""
    part = out.with_name(f".{out.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    mark = part / _MARK
    if not mark.exists():
        write_json(mark, what)
    elif read_json(mark) != what:
        raise UserError(
            "the export of another Dataset was begun here", where=str(part), mend="remove it, and try again"
        )
    return part


def _write_files(dataset: Dataset, layout: Layout, part: Path) -> None:
    rows = dataset.rows.itertuples()
    todo = ((part / layout.path(number, row), row) for number, row in enumerate(rows))
    with bar("export: images", dataset.info.num_images) as progress:
        for _ in in_order(lambda each: _write(each[0], layout.content(each[1])), todo, _THREADS):
            progress.advance()


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
