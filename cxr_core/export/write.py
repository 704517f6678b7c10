"""Export a Dataset into a new folder, which appears at the end and complete; a killed export goes on where it was."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cxr_core.data.dataset import Dataset
from cxr_core.data.shareable import shareable
from cxr_core.data.threads import in_order
from cxr_core.export.card import card
from cxr_core.export.dicom import Dicom, refuse_real
from cxr_core.export.folder import new_folder, write_file
from cxr_core.export.imagefolder import ImageFolder
from cxr_core.export.layout import Layout
from cxr_core.export.nih import NihLayout
from cxr_core.export.tars import write_tars
from cxr_core.log import room_log
from cxr_core.runs.progress import bar

log = room_log(__name__)

LAYOUTS: Mapping[str, Callable[[Dataset], Layout]] = {"imagefolder": ImageFolder, "nih": NihLayout, "dicom": Dicom}

TARS = "webdataset"
"""The form that has no file for each image."""

_THREADS = 8
"""Files are small, and a file system of a cluster answers many at once."""


def export(dataset: Dataset, out: Path, form: str, *, internal: bool = False) -> None:
    """Write all images of a Dataset, their tables and a card to the new folder `out`.

    Of a synthetic Dataset public fields alone (`cxr_core.boundary`); a real one is refused unless it is to stay
    `internal`, and then keeps its ids and says so in each file. `form` is one of `LAYOUTS`, or `TARS`. Raises UserError
    where `out` exists, where another export was begun in its place, or for what a form cannot hold: real images as
    DICOM, and see `NihLayout`.
    """
    if form == "dicom":
        refuse_real(dataset)
    dataset = shareable(dataset, internal=internal)
    layout = LAYOUTS[form](dataset) if form != TARS else None
    _ = dataset.rows  # refused before anything is begun
    log.debug("writing %d images of %s as %s to %s", dataset.info.num_images, dataset.folder, form, out)
    access = {} if dataset.info.synthetic else {"access": "internal"}
    with new_folder(out, {"form": form, **dataset.marks(), **access}) as part:
        if layout:
            _write_files(dataset, layout, part)
            layout.finish(part)
        else:
            write_tars(dataset, part)
        (part / "README.md").write_text(card(dataset))


def _write_files(dataset: Dataset, layout: Layout, part: Path) -> None:
    rows = dataset.rows.itertuples()
    todo = ((part / layout.path(number, row), row) for number, row in enumerate(rows))
    with bar("export: images", dataset.info.num_images) as progress:
        for _ in in_order(lambda each: write_file(each[0], layout.content(each[1])), todo, _THREADS):
            progress.advance()
