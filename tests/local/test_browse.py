"""`cxr data browse`: the page as a browser shows it, from files alone."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.export.browse import ACROSS, THUMB, write_page
from tests.conftest import require
from tests.planted import planted_row, planted_rows, write_planted

NUM = 230


def rows() -> list[dict]:
    """230 synthetic images; every third did not pass its gate, and margins fall with the number."""
    found = []
    for i, row in enumerate(planted_rows(NUM, split="synthetic")):
        gate = {"draws": 1, "passed": i % 3 > 0, "margin": -i / 1000, "scores": {"Effusion": 0.5}}
        prompt = f"chest <b>&, number {i % 5}"
        made = {"seed": 7 + i, "prompt": prompt, "generation": json.dumps({"draw": 0, "gate": gate})}
        found.append(planted_row(row["image_id"], split="synthetic", labels=row["labels"], view=row["view"], **made))
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse")
    return write_page(write_planted(folder / "syn", rows(), synthetic=True), folder / "page")


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The document as Chromium has it after its scripts ran, for what stands behind the page's address."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    require("browser", browser is not None, "no Chromium is installed")
    profile = tmp_path_factory.mktemp("profile")

    def look(hash_: str = "", *words: str) -> str:
        command = [str(browser), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--window-size=1000,800", "--virtual-time-budget=5000", *words, f"{page.as_uri()}#{hash_}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return look


def test_given_a_dataset_the_sheets_hold_each_image_at_its_place(page: Path) -> None:
    dataset = Dataset.open(page.parents[1] / "syn")
    sheets = sorted((page.parent / "sheets").iterdir())
    assert len(sheets) == 3
    for place in (0, 117, NUM - 1):
        sheet = cv2.imread(str(sheets[place // ACROSS**2]), cv2.IMREAD_GRAYSCALE)
        y, x = divmod(place % ACROSS**2, ACROSS)
        thumb = sheet[y * THUMB : (y + 1) * THUMB, x * THUMB : (x + 1) * THUMB]
        image = cv2.resize(dataset.image(dataset.rows.iloc[place]), (THUMB, THUMB), interpolation=cv2.INTER_LINEAR)
        assert np.abs(thumb.astype(int) - image).mean() < 8


def test_given_a_browser_images_in_sight_are_in_the_page_and_the_rest_is_a_height(seen: Callable[..., str]) -> None:
    dom = seen("", "--dump-dom")
    tiles = re.findall(r"synthetic-\d{5}", dom)
    assert "230 of 230 synthetic images: made by a model, of no patient" in dom
    assert tiles[0] == "synthetic-00000"
    assert 50 < len(tiles) < NUM
    assert "sheets/00000.jpg" in dom
    assert "chest &lt;b&gt;&amp;, number 0" in dom


def test_given_a_finding_a_gate_and_an_order_the_page_shows_these_images(seen: Callable[..., str]) -> None:
    dom = seen("finding=Effusion&gate=not+passed&order=gate+margin%2C+lowest+first", "--dump-dom")
    found = [int(text) for text in re.findall(r"synthetic-(\d{5})", dom)]
    wanted = [i for i in range(NUM) if i % 2 and i % 3 == 0]
    assert f"{len(wanted)} of 230" in dom
    assert found == sorted(wanted, reverse=True)
    assert 'class="tile rejected"' in dom


def test_given_words_only_images_with_them_in_their_prompt_are_shown(seen: Callable[..., str]) -> None:
    assert "46 of 230" in seen("words=NUMBER+3", "--dump-dom")


def test_given_a_browser_thumbnails_are_really_painted(seen: Callable[..., str], tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    seen("finding=Effusion", f"--screenshot={shot}")
    pixels = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    # Planted images are grey noise with a bright square: many values between ink and paper.
    assert ((pixels > 60) & (pixels < 120)).mean() > 0.2


def test_given_a_page_that_is_there_it_is_not_overwritten(page: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        write_page(Dataset.open(page.parents[1] / "syn"), page.parent)


def test_given_real_images_the_page_says_so(tmp_path: Path) -> None:
    real = write_planted(tmp_path / "real", planted_rows(4))
    told = (write_page(real, tmp_path / "page").parent / "data.js").read_text()
    data = json.loads(told.removeprefix("const DATA = ").removesuffix(";\n"))
    assert data["synthetic"] is False
    assert data["columns"]["margin"] == [None] * 4
    assert data["labels"]["texts"] == ["No Finding", "Effusion"]
    assert data["findings"][:-1] == list(NIH.names)
