"""What tells of few patients without naming them: differences, fractions, lengths of lists, and copies of images."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_core.boundary import withheld
from cxr_core.data.findings import NIH
from cxr_core.data.positions.split import BoxedSplit
from cxr_core.data.pseudonyms import VARIABLE, key, who
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.export.write import export
from cxr_core.generation.requests import allocate
from cxr_core.generation.settings import Request
from cxr_core.models.training_data import TrainingData
from cxr_core.report.model_card import numbers
from cxr_core.report.write import render
from cxr_core.runs.files import read_json, write_json
from tests.hostile.test_leaves import SECRET, files_in, leaks
from tests.planted import planted_row, planted_rows, told_series, write_planted
from tests.unit import report_run

MASS, NODULE, HERNIA = map(NIH.bit, ("Mass", "Nodule", "Hernia"))


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home" / "patient.key"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def learnt(labels: list[int], moved: tuple[str, ...] = ()) -> TrainingData:
    rows = pd.DataFrame([planted_row(f"{i}", labels=bits) for i, bits in enumerate(labels)])
    split = BoxedSplit(sha256="5" * 64, num_patients={}, moved=moved) if moved else None
    return TrainingData.of(rows, NIH, "d" * 64, None, split)


# Counts


def test_given_few_patients_who_have_several_rare_findings_then_the_rest_does_not_tell_how_many_they_are() -> None:
    """Three cells of 4 are 12 patients, or the same 4: then all but No Finding would be 4."""
    assert "No Finding" in learnt([MASS | NODULE | HERNIA] * 4 + [0] * 96).public().withheld
    assert withheld({"a": 6, "b": 4, "c": 30}) == {"a", "b", "c"}


def test_given_few_images_with_two_findings_then_no_sum_of_what_is_published_tells_how_many() -> None:
    told = learnt([MASS] * 30 + [NODULE] * 30 + [MASS | NODULE] * 3 + [0] * 40).public()
    assert told.images is not None
    known = sum(seen.images for seen in told.findings.values())
    assert told.withheld
    assert known - told.images not in range(1, 10)
    plain = learnt([MASS] * 30 + [NODULE] * 30 + [0] * 40).public()
    assert plain.withheld == ()


def test_given_few_moved_patients_then_neither_the_list_of_their_names_nor_a_digest_tells_how_many() -> None:
    told = [learnt([0] * 20, moved).public(key().name) for moved in (("00000007",), ("00000007", "00000009"))]
    assert [len(one.barred) for one in told] == [10, 10]
    assert [one.images_sha256 for one in told] == [None, None]
    assert learnt([0] * 20).public().images_sha256 is not None
    assert told[0].public(key().name) == told[0]


def test_names_that_are_nobodys_bar_nobody(tmp_path: Path) -> None:
    told = learnt([0] * 20, ("test00001",)).public(key().name)
    real = write_planted(tmp_path / "real", planted_rows(20, split="test"))
    assert who(told.barred, real) == {"test00001"}


def test_given_few_held_out_patients_then_no_number_of_an_evaluation_tells_how_many() -> None:
    told = report_run.metrics("Edema").model_dump(mode="json")
    for name in ("headline", "beside_floor", "floor"):
        for side in "ab":
            if told["fidelity"][name][side]["num_patients"]:
                told["fidelity"][name][side] |= {"num_images": 7, "num_patients": 7, "effective": 7.0}
    told["fidelity"]["to_train"]["not_computed"] = "n = 7 effective held-out images, 128 are needed (2 x 64 features)"
    lines = list(numbers(Metrics.model_validate(told)))
    assert not [line for line in lines if "n = 7" in line]
    assert any("fewer than 10 patients" in line for line in lines)


def test_given_few_test_patients_then_no_accuracy_of_them_is_published(tmp_path: Path) -> None:
    run = report_run.full_run(tmp_path / "tiny", NIH)
    assert "accuracy 0." in render(run.root, public=True)
    path = run.root / "study" / FILE
    told = read_json(path)
    for one in told["utility"]:
        if one["test"]:
            one["test"] |= {"num_images": 6, "num_patients": 6}
    write_json(path, told)
    assert "accuracy 0." not in render(run.root, public=True)


def test_given_fill_then_what_is_drawn_does_not_tell_how_few_real_patients_have_a_finding() -> None:
    rows = pd.DataFrame(
        [planted_row(f"{i}", labels=HERNIA) for i in range(3)] + [planted_row(f"m{i}", labels=MASS) for i in range(12)]
    )
    drawn = allocate(Request(fill=20), rows, NIH).groupby("labels")["num_images"].sum().to_dict()
    assert drawn == {HERNIA: 20, MASS: 8}


# Copies


def made(folder: Path, generation: str = "{}", series: dict[str, Any] | None = None) -> Any:
    rows = [
        planted_row(f"syn-{i:08d}", patient_id="", split="synthetic", seed=i, generation=generation) for i in range(12)
    ]
    rows[3]["generation"] = generation
    about = {"series": [told_series(None)[0] | (series or {})], "dtype": "float32", "batch_size": 4}
    return write_planted(folder, rows, synthetic=True, about=about)


COPIES = {
    "real images that are called synthetic": {"generation": ""},
    "latents of real images themselves": {"series": {"kind": "pggan", "bank": "b" * 64, "from_bank": "each"}},
    "captions of one patient each": {"series": {"request": {"rare_captions": {"max_images": 1}}}},
}


@pytest.mark.parametrize("what", COPIES)
def test_what_is_no_synthetic_image_or_shows_a_patient_does_not_leave(what: str, tmp_path: Path) -> None:
    dataset = made(tmp_path / "made", **COPIES[what])
    with pytest.raises(UserError, match="must not leave"):
        export(dataset, tmp_path / "out", "imagefolder")
    assert not list(tmp_path.glob("*out*"))


def test_a_public_report_names_what_it_does_not_show_and_goes_on(tmp_path: Path) -> None:
    run = report_run.full_run(tmp_path / "tiny", NIH)
    path = run.root / "drawn" / "dataset.json"
    about = {"series": [told_series(None)[0] | COPIES["latents of real images themselves"]["series"]]}
    write_json(path, read_json(path) | {"about": about})
    page = render(run.root, public=True)
    assert "must not leave" in page
    assert "Synthetic chest X-ray:" not in page
    assert "accuracy 0." in page


def test_a_key_that_stands_twice_in_a_record_of_generation_hides_nothing(tmp_path: Path) -> None:
    text = f'{{"model": "{SECRET}", "steps": 4, "model": "{"a" * 64}"}}'
    export(made(tmp_path / "made", text), tmp_path / "out", "imagefolder")
    assert leaks(files_in(tmp_path / "out")) == []


# The key


def test_given_many_processes_at_once_then_all_have_one_key(own_key: Path) -> None:
    code = "from cxr_core.data.pseudonyms import key; print(key().secret.hex())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    said = {one.communicate(timeout=120)[0] for one in started}
    assert said == {own_key.read_text()}
    assert list(own_key.parent.iterdir()) == [own_key]


@pytest.mark.parametrize("place", ["file/patient.key", "folder", "~nobody-at-all/x"])
def test_given_a_place_where_no_key_can_be_then_it_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv(VARIABLE, place)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=place):
        key()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_given_a_key_in_a_home_by_its_short_name_then_no_folder_of_that_name_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "~/patient.key")
    monkeypatch.chdir(tmp_path)
    key()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.key")] == ["home/patient.key"]
