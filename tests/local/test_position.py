"""The localiser is really trained on boxes, and an evaluation really measures where a generator puts things."""

from pathlib import Path
from typing import Any

import pytest

import jobs.evaluate
import jobs.train
from cxr_core.data.dataset import Dataset
from cxr_core.data.positions.phrases import place, region_words
from cxr_core.data.positions.regions import GRID, unit_boxes
from cxr_core.data.positions.settings import PositionWords
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.position.results import PositionAsked, PositionResult
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.localiser_folder import read_info
from cxr_core.training.judge_settings import LocaliserTrain
from tests.planted import planted_box, planted_rows, write_planted
from tests.training import finish, losses, stage

SIZE = 32


def boxed(rows: list[dict]) -> list[dict]:
    """The squares of `rows` with their boxes."""
    return [{**row, "boxes": [planted_box(row, SIZE)] if row["labels"] else []} for row in rows]


def asked(num: int, request: str, shift: int) -> list[dict]:
    """Synthetic images asked for in the cell where their square is, or in one `shift` cells further."""
    rows = []
    for row in planted_rows(2 * num, split="synthetic"):
        if not row["labels"]:
            continue
        image_id = f"{request}-{row['image_id']}"
        box = unit_boxes([planted_box({"image_id": image_id}, SIZE)], SIZE)[0]
        cell = place(box, PositionWords()).region
        assert cell is not None
        words = region_words(GRID[(GRID.index(cell) + shift) % len(GRID)], "patient")
        prompt = f"frontal chest x-ray, PA view, pleural effusion in {words}"
        rows.append({**row, "image_id": image_id, "prompt": prompt, "request": request})
    return rows


def localiser_stage(folder: Path, dataset: Path, **values: Any) -> Any:
    defaults = {"steps": 80, "checkpoint_every": 80, "batch_size": 16, "learning_rate": 4e-3, "warmup_steps": 10}
    settings = LocaliserTrain(
        name="localiser",
        kind="train",
        model="localiser",
        inputs={"dataset": "d"},
        threads=1,
        **{**defaults, "ema_decay": 0.9, "validation_images": 8, **values},
    )
    return stage(folder, jobs.train, settings, {"dataset": dataset})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = planted_rows(240) + planted_rows(40, split="val") + planted_rows(120, split="test")
    return write_planted(tmp_path_factory.mktemp("real") / "real", boxed(rows), size=SIZE)


@pytest.fixture(scope="module")
def localiser(real: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(localiser_stage(tmp_path_factory.mktemp("localiser") / "stage", real.folder))


@pytest.fixture(scope="module")
def evaluated(real: Dataset, localiser: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    rows = asked(40, "obeys", 0) + asked(40, "ignores", 4)
    made = write_planted(folder / "made", rows, size=SIZE, synthetic=True)
    return finish(evaluate_stage(folder / "study", real.folder, made.folder, localiser))


def evaluate_stage(folder: Path, real: Path, synthetic: Path, localiser: Path) -> Any:
    inputs = {"real": real, "synthetic": synthetic, "localiser": localiser}
    settings = EvaluateStage(
        name="study",
        kind="evaluate",
        threads=1,
        inputs={role: role for role in inputs},
        grids={"findings": ["Effusion"]},
        position={"num_resamples": 200, "num_columns": 3},
    )
    return stage(folder, jobs.evaluate, settings, inputs)


def result(folder: Path) -> PositionResult:
    found = Metrics.model_validate_json((folder / FILE).read_text()).position
    assert found is not None
    return found


def of_request(folder: Path, name: str) -> PositionAsked:
    return next(each for each in result(folder).findings[0].asked if each.request == name)


def test_given_boxes_then_the_localiser_learns_and_says_what_it_learnt_from(real: Dataset, localiser: Path) -> None:
    of_stage = losses(localiser)
    assert sum(of_stage[-10:]) < 0.7 * sum(of_stage[:10])
    info = read_info(final_checkpoint(localiser, "localiser"))
    assert (info.findings, info.dataset, info.num_boxes) == (("Effusion",), real.info.digest, {"Effusion": 120})


def test_given_held_out_boxes_then_the_localiser_is_tried_on_them_first(evaluated: Path) -> None:
    trial = result(evaluated).findings[0].trial
    assert (trial.num_images, trial.refused) == (60, None)
    assert trial.hit_rate is not None
    assert trial.guess is not None
    assert trial.hit_rate.value > 0.9 > trial.guess


def test_given_a_generator_that_obeys_and_one_that_does_not_then_the_numbers_tell_them_apart(evaluated: Path) -> None:
    obeys, ignores = of_request(evaluated, "obeys"), of_request(evaluated, "ignores")
    assert obeys.hit_rate is not None
    assert ignores.hit_rate is not None
    assert obeys.hit_rate.low > 0.7
    assert obeys.verdict in ("follows", "follows_less")
    assert ignores.hit_rate.value < 0.1
    assert ignores.verdict == "not_shown"


def test_given_pictures_then_each_request_has_a_row_below_the_real_one(evaluated: Path) -> None:
    (picture,) = result(evaluated).pictures
    assert picture.rows == ("real", "asked for with a place (ignores)", "asked for with a place (obeys)")
    assert (evaluated / picture.path).stat().st_size > 1000


def test_given_two_halves_of_training_then_it_resumes_bit_for_bit(real: Dataset, tmp_path: Path) -> None:
    from tests.training import finish_afresh

    steps = {"steps": 6, "checkpoint_every": 3, "warmup_steps": 1}
    whole = finish(localiser_stage(tmp_path / "one", real.folder, **steps))
    again = finish_afresh(localiser_stage(tmp_path / "two", real.folder, **steps))
    assert losses(whole) == losses(again)


def test_given_no_training_image_with_a_box_then_it_says_how_to_get_some(tmp_path: Path) -> None:
    rows = planted_rows(8) + planted_rows(4, split="val")
    dataset = write_planted(tmp_path / "real", rows, size=SIZE)
    with pytest.raises(UserError, match="no training image has a bounding box of any finding") as caught:
        finish(localiser_stage(tmp_path / "stage", dataset.folder))
    assert "move_boxed" in str(caught.value)


def test_given_a_localiser_of_another_dataset_then_its_patients_may_not_be_held_out_and_it_is_refused(
    localiser: Path, tmp_path: Path
) -> None:
    other = write_planted(tmp_path / "other", boxed(planted_rows(8) + planted_rows(8, split="test")), size=SIZE)
    made = write_planted(tmp_path / "made", asked(4, "obeys", 0), size=SIZE, synthetic=True)
    with pytest.raises(UserError, match="learnt from another Dataset than"):
        finish(evaluate_stage(tmp_path / "study", other.folder, made.folder, localiser))
