"""PG-GAN, Stable Diffusion and Stable Diffusion with positions on one page; `make proof TARGET=systems`.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import pytest

from cxr_core.report.blocks import PictureGrid, Table
from cxr_core.report.read import read_run
from cxr_core.report.sections import sections
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

SYSTEMS = ["pg_gan", "stable_diffusion", "with_position"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))
    done = cxr("run", "systems", "--runs", runs, timeout=7200)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}".replace(str(runs), "RUNS"))
    return runs / "systems"


def test_given_three_systems_then_one_table_and_one_page_of_pictures_hold_them_all(run: Path) -> None:
    stages = read_run(run)
    seconds = {stage.name: round(sum(stage.seconds.values())) for stage in stages.stages}
    print(seconds, f"{sum(seconds.values()) / 60:.1f} min in all")
    (section,) = (one for one in sections(stages) if one.id == "systems")
    numbers, by_finding = (block for block in section.blocks if isinstance(block, Table))
    for table in (numbers, by_finding):
        print([column.name for column in table.columns], *table.rows, sep="\n")
    assert [column.name for column in numbers.columns] == ["measure", "real", *SYSTEMS]
    assert list(numbers.rows[0][2:]) == ["640"] * len(SYSTEMS)
    assert {tuple(row[:2]) for row in by_finding.rows} == {
        ("Effusion", "seen"), ("Mass", "seen"), ("Effusion", "in its place"), ("Mass", "in its place"),
        ("Effusion", "added"),
    }  # fmt: skip
    (pictures,) = (block for block in section.blocks if isinstance(block, PictureGrid))
    assert list(pictures.rows) == ["real", *SYSTEMS]
