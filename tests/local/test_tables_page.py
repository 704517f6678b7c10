"""docs/tables.md: its example makes a table and PNG files of CheXpert's layout, and its config is planned."""

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr_core.data.sources import plan_source
from jobs.config import load_config
from tests.conftest import REPOSITORY
from tests.pipeline import cxr
from tests.radiographs import grey

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion"
ROWS = [
    "patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,0.0",
    "patient00002/study1/view1_frontal.jpg,Male,87,Frontal,PA,,,1.0,,,1.0",
    "patient00002/study1/view2_lateral.jpg,Male,87,Lateral,,,,1.0,,,1.0",
    "patient00002/study2/view1_frontal.jpg,Male,88,Frontal,LL,,,,,1.0,",
    "patient00003/study1/view1_frontal.jpg,Unknown,0,Frontal,AP,,-1.0,,,,",
]


def blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "tables.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def chexpert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CheXpert, and beside it what the page's script and config make of it."""
    source = tmp_path / "CheXpert-v1.0-small"
    for number, row in enumerate(ROWS):
        path = source / "train" / row.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(number)).save(path)
    rows = [f"{source.name}/train/{row}" for row in ROWS]
    (source / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    (script,), (config,) = blocks("python"), blocks("yaml")
    exec(compile(script, "docs/tables.md", "exec"), {})
    (tmp_path / "chexpert.yaml").write_text(config)
    return tmp_path


def test_the_example_is_planned_with_each_image_its_own(chexpert: Path) -> None:
    stage = load_config("chexpert.yaml").stages[0]
    rows = plan_source(stage).rows  # type: ignore[arg-type]
    assert rows["image_id"].tolist() == ["patient00001_study1_view1_frontal", "patient00002_study1_view1_frontal"]
    assert rows["prompt"].str.rpartition("view, ")[2].tolist() == ["no finding", "cardiomegaly, pleural effusion"]
    for row in rows.itertuples():
        assert Path(row.file) == chexpert / "png" / "train" / f"{row.image_id.replace('_', '/', 2)}.png"
    assert len(pd.read_csv("chexpert.csv")) == 3
    said = cxr("plan", "chexpert.yaml", cwd=chexpert)
    assert said.returncode == 0, said.stderr
    assert "views other than PA and AP: 1 (left out), the first:" in said.stdout
    assert "chexpert.csv, row 4: view 'LL'" in said.stdout.replace("\n", "")
