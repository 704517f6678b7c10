"""The reader kit: a page that gives nothing away, and scores that are those worked out by hand."""

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.evaluation.readers.agreement import cohen_kappa, fleiss_kappa, share
from cxr_core.evaluation.readers.make import make_test
from cxr_core.evaluation.readers.score import score_answers
from jobs.readers import make
from jobs.show import show_readers
from tests.pipeline import cxr
from tests.planted import planted_rows, write_planted


def test_given_a_share_then_its_interval_is_wilsons_formula() -> None:
    num, of, z = 17, 20, 1.959963984540054
    centre = (num / of + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(num / of * (1 - num / of) / of + z**2 / (4 * of**2))
    found = share(num, of)
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx((centre - half, 0.85, centre + half))
    assert share(0, 0) is None


def test_given_two_readers_then_cohens_kappa_is_that_of_sklearn() -> None:
    draw = np.random.default_rng(1)
    one = draw.random(50) < 0.4
    other = one ^ (draw.random(50) < 0.2)
    assert cohen_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))
    assert cohen_kappa(np.ones(5, bool), np.ones(5, bool)) is None


def test_given_three_readers_then_fleiss_kappa_is_that_worked_out_by_hand() -> None:
    # Of 3 pairs an image 3, 1, 1 and 3 agree, on average 2/3; 6 of 12 answers are yes, so chance is 1/2.
    answers = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
    assert fleiss_kappa(answers) == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))
    assert fleiss_kappa(answers[:1]) is None
    assert fleiss_kappa(np.ones((3, 4), bool)) is None


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("readers")
    real = write_planted(folder / "real", [*planted_rows(6), *planted_rows(60, split="test")], size=32)
    rows = [dict(row, patient_id="", seed=1) for row in planted_rows(30, split="synthetic")]
    return real, write_planted(folder / "made", rows, size=16, synthetic=True)


@pytest.fixture(scope="module")
def reading(datasets: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_test(*datasets, tmp_path_factory.mktemp("test") / "reading.html", num=10, seed=4)


def test_given_two_datasets_then_the_page_shows_as_many_of_each_and_gives_nothing_away(
    reading: tuple[Path, Path], datasets: tuple[Dataset, Dataset]
) -> None:
    page, key_path = reading
    text, key = page.read_text(), json.loads(key_path.read_text())
    items = key["items"]
    assert sorted(item["source"] for item in items) == ["real"] * 10 + ["synthetic"] * 10
    assert [item["source"] for item in items] != sorted(item["source"] for item in items)
    assert not any(item["image_id"] in text for item in items)
    assert key["synthetic"] not in text
    told = json.loads(re.search(r"const DATA = (.*);\n", text)[1])  # type: ignore[index]
    pngs = [base64.b64decode(image) for image in told["images"]]
    assert {cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).shape for png in pngs} == {(16, 16)}
    assert not any(b"tEXt" in png or b"Synthetic" in png for png in pngs)
    mix = [
        dataset.rows[dataset.rows["image_id"].isin([i["image_id"] for i in items])].value_counts(["labels", "view"])
        for dataset in datasets
    ]
    assert mix[0].to_dict() == mix[1].to_dict()


def test_given_the_same_seed_then_the_test_is_the_same_and_it_is_never_overwritten(
    datasets: tuple[Dataset, Dataset], reading: tuple[Path, Path], tmp_path: Path
) -> None:
    page, key = make_test(*datasets, tmp_path / "again.html", num=10, seed=4)
    assert page.read_bytes() == reading[0].read_bytes()
    assert key.read_bytes() == reading[1].read_bytes()
    with pytest.raises(UserError, match="is there already"):
        make_test(*datasets, tmp_path / "again.html", num=10, seed=5)
    with pytest.raises(UserError, match="synthetic images: 30 of 31"):
        make_test(*datasets, tmp_path / "more.html", num=31, seed=4)


def answers(key_path: Path, folder: Path, wrong: dict[str, set[int]], errors: str = "") -> list[Path]:
    """A file for each reader, who is wrong on the images named and gives `errors` for what he calls synthetic."""
    key = json.loads(key_path.read_text())
    paths = []
    for reader, mistaken in wrong.items():
        lines = ["test,reader,item,answer,errors"]
        for item in key["items"]:
            is_made = (item["source"] == "synthetic") != (item["item"] in mistaken)
            said = "synthetic" if is_made else "real"
            lines.append(f"{key['test']},{reader},{item['item']},{said},{errors if is_made else ''}")
        paths.append(folder / f"{reader}.csv")
        paths[-1].write_text("\n".join(lines))
    return paths


def test_given_answers_then_each_reader_is_scored_and_agreement_and_errors_are_told(
    reading: tuple[Path, Path], tmp_path: Path
) -> None:
    _, key = reading
    items = json.loads(key.read_text())["items"]
    real = [item["item"] for item in items if item["source"] == "real"]
    files = answers(key, tmp_path, {"ann": set(), "bob": set(real[:4])}, errors="bones|texture")
    found = score_answers(key, files)
    ann, bob = found.readers
    assert ann.accuracy == share(20, 20)
    assert (bob.accuracy, bob.found, bob.spared) == (share(16, 20), share(10, 10), share(6, 10))
    assert found.mean_accuracy.value == pytest.approx(0.9)
    assert found.mean_accuracy.low < 0.9 < found.mean_accuracy.high
    truth = [item["source"] == "synthetic" for item in items]
    said = [made or item["item"] in real[:4] for made, item in zip(truth, items, strict=True)]
    assert found.pairs[0].kappa == pytest.approx(cohen_kappa_score(truth, said))
    bones = next(one for one in found.errors if one.error == "bones")
    assert (bones.synthetic, bones.real) == (20, 4)
    done = cxr("readers", "score", key, *files)
    assert done.returncode == 0, done.stderr
    assert "bob" in done.stdout
    assert "0.80 (0.58-0.92)" in done.stdout
    assert "Fleiss' kappa" in done.stdout


def some_answers(key_path: Path, folder: Path, num: int) -> Path:
    """The first `num` answers of a reader who is always right."""
    (path,) = answers(key_path, folder, {"ann": set()})
    path.write_text("\n".join(path.read_text().splitlines()[: 1 + num]))
    return path


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_given_a_few_answers_that_are_all_right_then_the_mean_has_wilsons_interval_too(
    reading: tuple[Path, Path], tmp_path: Path, num: int
) -> None:
    found = score_answers(reading[1], [some_answers(reading[1], tmp_path, num)])
    wilson = share(num, num)
    assert found.readers[0].accuracy == wilson
    assert wilson is not None
    assert dict(found.mean_accuracy) == pytest.approx(dict(wilson))
    assert wilson.low == pytest.approx(num / (num + 1.96**2), abs=1e-4)


def test_given_a_header_alone_then_the_file_is_named_and_no_nan_is_printed(
    reading: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a header and no answer") as caught:
        score_answers(reading[1], [some_answers(reading[1], tmp_path, 0)])
    assert caught.value.where == str(tmp_path / "ann.csv")
    assert "leave it out" in caught.value.hint


def test_given_two_files_of_one_name_then_the_remedy_is_another_than_for_one_file_with_a_row_twice(
    reading: tuple[Path, Path], tmp_path: Path
) -> None:
    (path,) = answers(reading[1], tmp_path, {"ann": set()})
    other = tmp_path / "other.csv"
    other.write_text(path.read_text())
    with pytest.raises(UserError, match=r"reader 'ann' answered image \d+ twice") as caught:
        score_answers(reading[1], [path, other])
    assert caught.value.where == f"{path} and {other}"
    assert "a name of his own" in caught.value.hint
    path.write_text("\n".join([*path.read_text().splitlines(), path.read_text().splitlines()[1]]))
    with pytest.raises(UserError) as caught:
        score_answers(reading[1], [path])
    assert (caught.value.where, caught.value.hint) == (str(path), "keep one of these rows")


def test_given_answers_to_another_test_then_the_other_key_is_asked_for(
    reading: tuple[Path, Path], tmp_path: Path
) -> None:
    (path,) = answers(reading[1], tmp_path, {"ann": set()})
    test = json.loads(reading[1].read_text())["test"]
    path.write_text(path.read_text().replace(test, "0" * 12))
    with pytest.raises(UserError, match=f"the key is of '{test}'") as caught:
        score_answers(reading[1], [path])
    assert "key of that test" in caught.value.hint


def test_given_readers_without_an_image_in_common_then_agreement_is_not_computed_of_none(
    reading: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = answers(reading[1], tmp_path, {"ann": set(), "bob": set()})
    ann.write_text("\n".join(ann.read_text().splitlines()[:3]))
    bob.write_text("\n".join(np.delete(bob.read_text().splitlines(), slice(1, 5)).tolist()))
    found = score_answers(reading[1], [ann, bob])
    json.loads(found.model_dump_json())
    show_readers(found)
    told = capsys.readouterr().out
    assert told.count("not computed: n = 0 (0 images)") == 2
    assert "nan" not in told


def test_given_a_dataset_in_the_role_of_the_other_kind_then_no_test_is_made(
    datasets: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    real, made = (str(dataset.folder) for dataset in datasets)
    for source, beside, message in (
        (real, made, f"{real}: is a real Dataset, but is given as `synthetic`"),
        (made, made, f"{made}: is a synthetic Dataset, but is given as `real`"),
    ):
        with pytest.raises(UserError) as caught:
            make(Path(source), tmp_path / "test.html", Path(beside), num=5)
        assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ann,3,", "ann,99,", r"ann.csv, row 4: there is no image '99'"),
        (",real,", ",maybe,", "neither real nor synthetic"),
        ("answer", "choice", "there is no column 'answer'; there are 'test'"),
        ("ann,3,", "ann,2,", "reader 'ann' answered image 2 twice"),
    ],
)
def test_given_answers_that_are_not_of_this_test_then_file_and_row_are_named(
    reading: tuple[Path, Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    (path,) = answers(reading[1], tmp_path, {"ann": set()})
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        score_answers(reading[1], [path])
