"""What somebody prepared where an export is to be written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.png import decode_grey
from cxr_core.errors import UserError
from cxr_core.export.write import export
from tests.planted import planted_rows, write_planted


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_planted(tmp_path / "data", planted_rows(4))


def prepare(dataset: Dataset, part: Path, mode: int) -> None:
    """Work that looks finished: another picture in place of an image, and a file that nobody exported."""
    part.mkdir(mode=0o700)
    marks = {"form": "imagefolder", "dataset": dataset.info.digest, "access": "internal"}
    for folder in (part, part / "content"):
        (folder / "train" / "000").mkdir(parents=True)
        first = next(dataset.rows.itertuples())
        (folder / "train" / "000" / f"{first.image_id}.png").write_bytes(bytes(len(dataset.png(first))))
        (folder / "evil.py").write_text("")
        (folder / "export.json").write_text(json.dumps(marks))
    (part / "export.json").write_text(json.dumps(marks | dataset.marks()))
    part.chmod(mode)


def is_of(dataset: Dataset, row: Any, out: Path) -> bool:
    """Whether the exported picture is the image's own."""
    png = (out / "train" / "000" / f"{row.image_id}.png").read_bytes()
    return bool((decode_grey(png, where="out") == dataset.image(row)).all())


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o755])
def test_a_prepared_unfinished_folder_that_others_could_write_is_made_anew(dataset: Dataset, mode: int) -> None:
    out = dataset.folder.parent / "out"
    prepare(dataset, out.with_name(".out.partial"), mode)
    export(dataset, out, "imagefolder", internal=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "train"]
    for row in dataset.rows.itertuples():
        assert is_of(dataset, row, out)
    assert not out.with_name(".out.partial").exists()
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's")
def test_one_of_another_user_is_not_gone_on_with(dataset: Dataset) -> None:
    out = dataset.folder.parent / "out"
    part = out.with_name(".out.partial")
    prepare(dataset, part, 0o700)
    for path in (part, *part.rglob("*")):
        os.chown(path, 65534, 65534)
    with pytest.raises(UserError, match="belongs to somebody else"):
        export(dataset, out, "imagefolder", internal=True)
    assert not out.exists()


def test_a_link_in_its_place_leads_nowhere(dataset: Dataset) -> None:
    out = dataset.folder.parent / "out"
    victim = dataset.folder.parent / "victim"
    prepare(dataset, victim, 0o700)
    before = sorted(path.name for path in victim.rglob("*"))
    out.with_name(".out.partial").symlink_to(victim)
    export(dataset, out, "imagefolder", internal=True)
    assert sorted(path.name for path in victim.rglob("*")) == before
    assert not out.is_symlink()
    (dataset.folder.parent / "dangling").symlink_to("nowhere")
    with pytest.raises(UserError, match="is there already"):
        export(dataset, dataset.folder.parent / "dangling", "imagefolder", internal=True)


def test_a_picture_of_the_same_size_with_other_content_is_written_again(dataset: Dataset) -> None:
    out = dataset.folder.parent / "out"
    part = out.with_name(".out.partial")
    prepare(dataset, part, 0o700)
    (part / "content" / "evil.py").unlink()
    (part / "content" / "export.json").unlink()
    export(dataset, out, "imagefolder", internal=True)
    first = next(dataset.rows.itertuples())
    assert is_of(dataset, first, out)
