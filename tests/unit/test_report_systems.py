"""Systems side by side: one table and one page of pictures of all evaluations against the same real images."""

from base64 import b64decode
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr_core.data.sheet import cells_of, contact_sheet
from cxr_core.report.blocks import PictureGrid, Section, Table, Text
from cxr_core.report.read import read_run
from cxr_core.report.sections import sections
from tests.unit import report_run

REAL, GAN, DIFFUSION = 40, 120, 200


def stage(name: str, drawn: str) -> dict[str, Any]:
    return {"name": name, "kind": "evaluate", "inputs": {"real": "real", "synthetic": drawn}}


def sheet(grey: int) -> np.ndarray:
    """Three real images above three synthetic ones of one grey value."""
    images = np.stack([np.full((32, 32), value, np.uint8) for value in (REAL, REAL, REAL, grey, grey, grey)])
    return contact_sheet(images, ["real PA"] * 3 + ["synthetic PA"] * 3, columns=3)


def systems(tmp_path: Path, **changes: Any) -> Section:
    stages = [stage("study", "gan"), stage("study_sd", "runs/other/diffusion")]
    run = report_run.empty_run(tmp_path / "tiny", stages=stages)
    gan = {"digest": "b" * 64, "num_images": 640, "size": 32, "drawn_by": ["PG-GAN, from random latents"]}
    diffusion = {"digest": "d" * 64, "num_images": 640, "size": 32, "drawn_by": ["dpmpp, 15 steps"], **changes}
    report_run.add_study(run, stage="study", sheet=sheet(GAN), synthetic=gan)
    report_run.add_study(run, stage="study_sd", sheet=sheet(DIFFUSION), synthetic=diffusion)
    (found,) = (one for one in sections(read_run(run.root)) if one.id == "systems")
    return found


def test_given_two_evaluations_then_each_is_a_column_of_one_table_beside_the_floor(tmp_path: Path) -> None:
    numbers = next(block for block in systems(tmp_path).blocks if isinstance(block, Table))
    assert [column.name for column in numbers.columns] == ["measure", "real", "gan", "diffusion"]
    assert [row[0] for row in numbers.rows][:3] == ["images", "FID", "KID"]
    assert numbers.rows[0][2] == "640"
    assert numbers.rows[1][1:3] == ["12 (10 to 14)", "31.5 (29.5 to 33.5)"]


def test_given_a_judge_then_what_each_system_shows_of_a_finding_stands_beside_real_images(tmp_path: Path) -> None:
    _, by_finding = (block for block in systems(tmp_path).blocks if isinstance(block, Table))
    assert [column.name for column in by_finding.columns] == ["finding", "asked", "real", "gan", "diffusion"]
    assert {row[1] for row in by_finding.rows} == {"seen", "added"}
    assert all(len(row) == 5 for row in by_finding.rows)


def test_given_pictures_then_one_page_has_a_row_of_each_and_of_real_images(tmp_path: Path) -> None:
    (grid,) = (block for block in systems(tmp_path).blocks if isinstance(block, PictureGrid))
    assert grid.rows == ["real", "gan", "diffusion"]
    assert grid.columns == ["Edema"]
    for (picture,), grey in zip(grid.cells, (REAL, GAN, DIFFUSION), strict=True):
        assert grey in np.unique(pixels(picture.uri))
        others = {REAL, GAN, DIFFUSION} - {grey}
        assert max((pixels(picture.uri) == other).sum() for other in others) < 32


def test_given_sets_of_other_sizes_then_the_page_says_what_does_not_compare(tmp_path: Path) -> None:
    words = " ".join(block.text for block in systems(tmp_path, num_images=320).blocks if isinstance(block, Text))
    assert "320 and 640 images" in words
    assert "change with n" in words


@pytest.mark.parametrize("digests", ["bb", "b"])
def test_given_one_set_of_images_however_often_then_nothing_is_compared(tmp_path: Path, digests: str) -> None:
    stages = [stage(f"study{i}", "gan") for i in range(len(digests))]
    run = report_run.empty_run(tmp_path / "tiny", stages=stages)
    for each in stages:
        report_run.add_study(run, stage=each["name"])
    (found,) = (one for one in sections(read_run(run.root)) if one.id == "systems")
    assert [block.text for block in found.blocks if isinstance(block, Text)] == [
        "No two stages of this run evaluate against the same real images."
    ]


def test_given_a_sheet_then_its_cells_are_cut_with_their_words() -> None:
    lower = cells_of(sheet(GAN), (2, 3), row=1, num=2)
    whole = sheet(GAN)
    assert lower.shape == ((whole.shape[0] - 6) // 2 + 6, (whole.shape[1] - 6) // 3 * 2 + 6)
    assert (lower == GAN).sum() >= 2 * 32 * 32


def pixels(uri: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_GRAYSCALE)
