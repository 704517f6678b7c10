"""The phantom: the same everywhere, in NIH's very layout, and every finding to be seen where the table says."""

import io
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score

from cxr_core.data.findings import NIH, NIH_FINDINGS
from cxr_core.data.phantom import Case, Sign, draw, population, read_bytes, write_layout
from cxr_core.data.phantom.population import cases
from cxr_core.data.phantom.signs import box_of
from cxr_core.errors import UserError

BILATERAL = {"Edema": "both", "Emphysema": "both", "Fibrosis": "both", "Cardiomegaly": "midline", "Hernia": "midline"}
SIZE = 256
GOLDEN_MEANS = [103.9287, 133.5005]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return population(2000, seed=11)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "nih"
    write_layout(out, 60, seed=2, size=64, processes=2)
    return out


def healthy(number: int, view: str = "PA") -> Case:
    return Case(5, f"{number:08d}_000", view, 50, "FM"[number % 2])


def ill(case: Case, finding: str, severity: float) -> Case:
    side = BILATERAL.get(finding, ("left", "right")[int(case.patient_id) // 2 % 2])
    return replace(case, signs=(Sign(finding, severity, side, 0),))


def test_given_the_same_arguments_then_table_and_pixels_are_the_same() -> None:
    one, two = (population(40, seed=4) for _ in range(2))
    assert one.to_json() == two.to_json()
    assert one.to_json() != population(40, seed=5).to_json()
    for case in cases(one, seed=4)[:3]:
        assert (draw(case) == draw(case)).all()


def test_given_a_case_then_its_png_decodes_to_its_drawing() -> None:
    case = ill(healthy(1), "Mass", 0.5)
    for size in (64, 96, 300):
        decoded = cv2.imdecode(np.frombuffer(read_bytes(case, size), np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape == (size, size)
        assert (decoded == draw(case, size)).all()


def test_given_known_bodies_then_their_films_keep_known_means() -> None:
    """A golden value in grey levels: a change of the phantom is meant, or a mistake."""
    means = [float(draw(healthy(n, view)).mean()) for n, view in ((1, "PA"), (2, "AP"))]
    assert means == pytest.approx(GOLDEN_MEANS, abs=0.01)


def test_given_a_population_then_it_has_the_imbalance_of_nih(table: pd.DataFrame) -> None:
    share = {name: float(((table.labels & NIH.bit(name)) > 0).mean()) for name in NIH_FINDINGS}
    assert 0.48 < (table.labels == 0).mean() < 0.60
    assert min(share.values()) >= 0.005
    assert max(share, key=lambda name: share[name]) == "Infiltration"
    patients = table.groupby("patient_id")
    assert 0.30 < (patients.size() > 1).mean() < 0.55
    assert (patients.split.nunique() == 1).all()
    assert (patients.sex.nunique() == 1).all()
    assert 0.15 < (table.split == "test").mean() < 0.30
    assert list(table.image_id) == sorted(table.image_id)


def test_given_view_confounding_then_oedema_is_mostly_ap_and_without_it_is_not() -> None:
    shares = {}
    for confounded in (True, False):
        one = population(2500, seed=8, view_confounding=confounded)
        edema = (one.labels & NIH.bit("Edema")) > 0
        shares[confounded] = [(one["view"][rows] == "AP").mean() for rows in (edema, one.labels == 0)]
    assert shares[True][0] > 0.75
    assert 0.27 < shares[True][1] < 0.37
    assert abs(shares[False][0] - shares[False][1]) < 0.15


def test_given_a_row_then_labels_signs_and_boxes_agree(table: pd.DataFrame) -> None:
    for row in table.to_dict("records"):
        assert NIH.encode(sign["finding"] for sign in row["signs"]) == row["labels"]
        for sign in row["signs"]:
            assert 0 < sign["severity"] <= 1
            assert min(sign["x"], sign["y"]) >= 0
            assert min(sign["w"], sign["h"]) > 8
            assert max(sign["x"] + sign["w"], sign["y"] + sign["h"]) <= 1024.01


def test_given_a_left_sign_then_its_box_lies_at_image_right(table: pd.DataFrame) -> None:
    for sign in (sign for signs in table.signs for sign in signs if sign["side"] in ("left", "right")):
        centre = sign["x"] + sign["w"] / 2
        assert (centre > 512 - 40) if sign["side"] == "left" else (centre < 512 + 40), sign


@pytest.mark.parametrize("finding", NIH_FINDINGS)
def test_given_a_finding_then_pixels_change_and_mostly_inside_its_box(finding: str) -> None:
    for number, view in ((1, "PA"), (2, "AP"), (3, "PA"), (4, "PA")):
        clean, case = healthy(number, view), ill(healthy(number, view), finding, 0.6)
        change = np.abs(draw(case).astype(float) - draw(clean).astype(float))
        x, y, w, h = (v * SIZE / 1024 for v in box_of(case, case.signs[0]))
        inside = np.zeros_like(change, dtype=bool)
        inside[int(y) : int(np.ceil(y + h)) + 1, int(x) : int(np.ceil(x + w)) + 1] = True
        assert change[inside].sum() > 0.75 * change.sum()
        assert np.sort(change, axis=None)[-60:].mean() > 12


@pytest.mark.parametrize("finding", NIH_FINDINGS)
def test_given_a_worse_finding_then_more_pixels_change(finding: str) -> None:
    def change(number: int, severity: float) -> float:
        clean = healthy(number)
        return float(np.abs(draw(ill(clean, finding, severity)).astype(float) - draw(clean)).sum())

    assert sum(change(n, 0.95) for n in (1, 2, 3)) > 1.15 * sum(change(n, 0.3) for n in (1, 2, 3))


def test_given_two_visits_then_the_body_stays_and_a_sign_keeps_its_place() -> None:
    first = Case(5, "00000007_000", "PA", 50, "M", (Sign("Mass", 0.5, "left", 0),))
    second = replace(first, image_id="00000007_001")
    boxes = [np.array(box_of(case, case.signs[0])) for case in (first, second)]
    assert 0 < np.abs(boxes[0] - boxes[1]).max() < 90
    assert not (draw(first) == draw(second)).all()


def test_given_a_layout_then_its_tables_have_the_form_of_nih(layout: Path, nih_data: Path) -> None:
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        ours, theirs = ((folder / name).read_bytes().split(b"\n")[0] for folder in (layout, nih_data / "metadata"))
        assert ours == theirs
    ours, theirs = (pd.read_csv(folder / "Data_Entry_2017_v2020.csv") for folder in (layout, nih_data / "metadata"))
    assert list(ours.dtypes) == list(theirs.dtypes)
    assert not (layout / "test_list.txt").read_bytes().endswith(b"\n")


def test_given_a_layout_then_lists_part_patients_and_every_image_is_there(layout: Path) -> None:
    lists = {name: (layout / f"{name}_list.txt").read_text().split("\n") for name in ("train_val", "test")}
    patients = [{image[:8] for image in images} for images in lists.values()]
    assert all(patients)
    assert not patients[0] & patients[1]
    entries = pd.read_csv(layout / "Data_Entry_2017_v2020.csv")
    found = sorted(path.name for path in layout.glob("images_0*/images/*.png"))
    assert found == sorted(lists["train_val"] + lists["test"]) == list(entries["Image Index"])


def test_given_a_layout_then_its_images_are_those_drawn_in_memory(layout: Path) -> None:
    for case in cases(population(60, seed=2), seed=2)[::20]:
        (path,) = layout.glob(f"images_*/images/{case.image_id}.png")
        assert path.read_bytes() == read_bytes(case, 64)


def test_given_a_layout_then_boxes_are_those_of_test_images_in_the_truth(layout: Path) -> None:
    text = (layout / "BBox_List_2017.csv").read_text()
    boxes = pd.read_csv(io.StringIO(text), skiprows=1, names=["image", "finding", "x", "y", "w", "h"])
    truth, test = pd.read_csv(layout / "phantom_truth.csv"), (layout / "test_list.txt").read_text().split()
    assert len(boxes)
    assert set(boxes.image) <= set(test)
    assert "Infiltration" not in text
    merged = boxes.replace({"finding": {"Infiltrate": "Infiltration"}}).merge(truth, on=["image", "finding", *"xywh"])
    assert len(merged) == len(boxes)


def test_given_a_used_folder_then_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_layout(tmp_path, 3, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_given_no_images_then_the_population_is_refused() -> None:
    with pytest.raises(UserError, match="at least one image"):
        population(0, seed=1)


def test_given_one_core_then_an_image_takes_well_under_a_tenth_of_a_second() -> None:
    todo = [ill(healthy(n), "Effusion", 0.5) for n in range(8)]
    draw(todo[0])
    start = time.process_time()
    for case in todo:
        draw(case)
    assert (time.process_time() - start) / len(todo) < 0.1


def test_given_64_pixels_then_a_linear_judge_tells_five_findings_from_none() -> None:
    """Patients differ between training and test; the views are the same mix in both classes."""
    num_train, num_test = 50, 30
    severities = np.random.default_rng(0).uniform(0.3, 1.0, num_train + num_test)

    def images(offset: int, finding: str | None) -> np.ndarray:
        bodies = [healthy(offset + n, "AP" if n % 3 == 0 else "PA") for n in range(num_train + num_test)]
        shown = [ill(b, finding, s) if finding else b for b, s in zip(bodies, severities, strict=True)]
        return np.stack([features(draw(case, 64)) for case in shown])

    def features(image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).ravel() / 255.0

    none = images(1000, None)
    truth = np.repeat([0, 1], num_test)
    for index, finding in enumerate(("Edema", "Effusion", "Cardiomegaly", "Mass", "Pneumothorax"), start=2):
        some = images(1000 * index, finding)
        judge = RidgeClassifier(alpha=10)
        judge.fit(np.concatenate([none[:num_train], some[:num_train]]), np.repeat([0, 1], num_train))
        scores = judge.decision_function(np.concatenate([none[num_train:], some[num_train:]]))
        assert roc_auc_score(truth, scores) >= 0.85, finding
