"""problems.csv, the page and the console: what harms stands first, and what comes by the thousand in one line."""

import csv
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from cxr_core.data.problems import COLUMNS, SUMMED, problem, read_problems, sum_up, write_problems
from cxr_core.data.settings import Policies
from cxr_core.report.write import write_report
from jobs.config import load_config
from jobs.launch import run_stages
from jobs.show import show_results
from tests.radiographs import grey, png

ABSENT = 40


def config(folder: Path) -> Path:
    """A run of one preprocess stage: a table of 43 images of which 40 are not there, one is truncated, one turned out
    negative; two files without a row, and a companion of macOS."""
    (folder / "images").mkdir()
    names = ["good", "cut", "small", *(f"absent{number:02d}" for number in range(ABSENT))]
    rows = [f"{name}.png,p{number},Mass,PA" for number, name in enumerate(names)]
    (folder / "t.csv").write_text("\n".join(["image,patient,labels,view", *rows]))
    files = {"good": png(grey(1)), "cut": png(grey(2))[:-30], "small": png(grey(3, 8, 8))}
    files |= {"stranger1": png(grey(4)), "stranger2": png(grey(5)), "._good": b"\0\5\26\7"}
    for name, data in files.items():
        (folder / "images" / f"{name}.png").write_bytes(data)
    text = f"""
name: odd
stages:
  - name: real
    kind: preprocess
    data: {{kind: table, csv: {folder}/t.csv, images: [{folder}/images], findings: [Mass], missing: subset}}
    size: 16
"""
    (folder / "odd.yaml").write_text(text)
    return folder / "odd.yaml"


def test_real_problems_stand_before_rows_without_an_image_in_the_file_the_page_and_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run_stages(load_config(str(config(tmp_path))), tmp_path / "runs")
    stage = tmp_path / "runs" / "odd" / "real"
    problems = read_problems(stage / "problems.csv")
    order = ["truncated", "enlarged", "mixed_sizes", "image_without_row", "passed_over", "row_without_image"]
    assert list(problems["kind"]) == order
    assert list(problems["cases"]) == ["1", "1", "1", "2", "1", str(ABSENT)]

    last = problems.iloc[-1]
    assert "rows without an image: 40; the first: absent00" in last["detail"]
    assert f"{tmp_path}/t.csv, row 5" in last["detail"]
    listed = pd.read_csv(stage / last["file"])
    assert list(listed["image_id"]) == [f"absent{number:02d}" for number in range(ABSENT)]

    show_results(results)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("real:"))
    said = "1 truncated, 1 enlarged, 1 mixed sizes, 2 image without row, 1 passed over, 40 row without image"
    assert line == f"real: {said}; all are named in real/problems.csv"

    page = write_report(stage.parent).read_text()
    places = [page.index(f"{kind.replace('_', ' ')}: ") for kind in order]
    assert places == sorted(places)
    assert "46 problems met by stage" in page
    assert "row without image: 40 cases" in page
    assert "absent39" not in page


def test_what_left_images_out_comes_first_whatever_its_name(tmp_path: Path) -> None:
    found = [
        problem("zebra", "b", "b.png", "", "left out"),
        problem("above_white", "a", "a.png", "", "converted"),
        problem("zebra", "a", "a.png", "", "kept"),
        problem("box_outside", "c", "c.png", "", "box left out"),
        problem("box_without_row", "d", "t.csv", "", "left out"),
    ]
    numbers = write_problems(tmp_path / "problems.csv", found)
    assert numbers == {"box_outside": 1, "zebra": 2, "above_white": 1, "box_without_row": 1}
    assert list(numbers) == ["box_outside", "zebra", "above_white", "box_without_row"]


def test_a_plan_without_a_mass_of_problems_has_no_list_beside_it(tmp_path: Path) -> None:
    found = pd.DataFrame([problem("listed", "a", "a.png", "named in l.txt", "left out")])
    assert list(sum_up(found, tmp_path)["kind"]) == ["listed"]
    assert list(tmp_path.iterdir()) == []
    assert sum_up(found.iloc[:0], tmp_path).empty


def test_a_file_of_problems_from_before_rows_had_cases_is_read(tmp_path: Path) -> None:
    (tmp_path / "problems.csv").write_text(",".join(COLUMNS) + "\nrgba,a,a.png,an alpha channel,converted\n")
    assert list(read_problems(tmp_path / "problems.csv")["cases"]) == ["1"]


def test_each_problem_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    hostile = 'a\n"b",\t\udcff\u2028'
    write_problems(tmp_path / "problems.csv", [problem("listed", hostile, hostile, hostile, "left out")])
    text = (tmp_path / "problems.csv").read_text("utf-8")
    assert len(text.splitlines()) == 2
    (row,) = csv.DictReader(text.splitlines())
    assert row["detail"] == 'a\\n"b",\\t\\xff\\u2028'


def test_the_page_says_of_each_policy_what_the_settings_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip(" `"): cells[2] for cells in rows if len(cells) == 3}
    assert len(told) > 20
    for kind, choices in told.items():
        field = Policies.model_fields[kind]
        assert {choice.strip(" *`") for choice in choices.split(",")} == set(get_args(field.annotation)), kind
        assert f"**`{field.default}`**" in choices, kind
    assert all(f"`{kind}`" in page for kind in SUMMED)
