"""A sweep through the evaluate stage: points, validation patients alone, the rule, and features computed once."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import jobs.evaluate
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.evaluation.sweep.results import SweepAlarm
from cxr_core.report.sweep_words import alarm_rule, alarm_words, choice_words
from cxr_core.report.write import render
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from tests.copied import radiographs, write_checkpoints
from tests.planted import planted_rows, write_planted
from tests.vision import small_vit

POINTS = {
    "step10-guidance1": (10, 1.0),
    "step10-guidance3": (10, 3.0),
    "step20-guidance1": (20, 1.0),
    "step20-guidance3": (20, 3.0),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real images and four series: at step 10 every image has a square; those of the last one are all one image."""
    folder = tmp_path_factory.mktemp("planted")
    real = [
        row for split, num in (("train", 80), ("test", 120), ("val", 120)) for row in planted_rows(num, split=split)
    ]
    drawn, series = [], []
    for i, (name, (step, guidance)) in enumerate(POINTS.items()):
        for row in planted_rows(64, split="synthetic", start=64 * i):
            row = dict(
                row, patient_id="", seed=1, generation="{}", request=name, prompt=f"{row['labels']} {row['view']}"
            )
            drawn.append(row | ({"drawn": 1} if step == 10 else {}) | ({"like": "one"} if i == 3 else {}))
        asked = {
            "request": {"balanced": ["Effusion"], "num_images": 64},
            "role": "model",
            "scheduler": "ddim",
            "steps": 5,
        }
        series.append(
            {"name": name, "checkpoint": step, "guidance": guidance, "model": "0" * 64, "num_images": 64, **asked}
        )
    return {
        "real": write_planted(folder / "real", real, size=16).folder,
        "synthetic": write_planted(
            folder / "candidates", drawn, size=16, synthetic=True, about={"series": series}
        ).folder,
    }


def stage(
    folder: Path, inputs: dict[str, Path], model: Path, memorisation: dict[str, Any] | None = None, **sweep: Any
) -> Work:
    names = {"real": "r", "synthetic": [name for name in inputs if name.startswith("synthetic")]}
    settings = EvaluateStage(
        name="choice",
        kind="evaluate",
        inputs=names,
        threads=1,
        extraction={"num_train": 80, "batch_size": 8, "shard_size": 64},
        memorisation=memorisation,
        sweep={"features": model, "num_resamples": 20, "diversity": {"num_resamples": 20}, **sweep},
    )
    folder.mkdir(parents=True)
    return Work(StageFolder(folder), jobs.evaluate, Context(settings, inputs, 5, folder), {})


def finish(work: Work) -> Metrics:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Metrics.model_validate_json((work.folder.path / FILE).read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, datasets: dict[str, Path], model: Path) -> tuple[Work, Metrics]:
    work = stage(tmp_path_factory.mktemp("run") / "choice", datasets, model, test=True)
    return work, finish(work)


def test_given_several_series_each_is_a_point_with_its_step_and_guidance(measured: tuple[Work, Metrics]) -> None:
    sweep = measured[1].sweep
    assert sweep is not None
    assert [(r.point.id, r.point.step, r.point.guidance) for r in sweep.points] == [
        ("p00", 10, 1.0),
        ("p01", 10, 3.0),
        ("p02", 20, 1.0),
        ("p03", 20, 3.0),
    ]
    assert {result.point.num_images for result in sweep.points} == {64}


def test_given_the_rule_the_point_nearest_to_validation_patients_is_recommended(measured: tuple[Work, Metrics]) -> None:
    sweep = measured[1].sweep
    assert sweep is not None
    assert sweep.chosen == "p02"
    assert "Recommended: candidates, step 20, guidance 1, KID " in choice_words(sweep)
    numbers = {result.fidelity.headline.b.num_images for result in sweep.points}
    assert numbers == {120}  # validation images; there are as many test images, which would make 240


def test_given_a_series_of_one_image_it_covers_little_and_is_all_alike(measured: tuple[Work, Metrics]) -> None:
    sweep = measured[1].sweep
    assert sweep is not None
    good, collapsed = (result.diversity for result in sweep.points[2:])
    assert good.headline.num_images == collapsed.headline.num_images
    assert good.headline.recall is not None
    assert collapsed.headline.recall is not None
    assert collapsed.headline.recall.high < good.headline.recall.low
    assert good.synthetic.ms_ssim is not None
    assert collapsed.synthetic.ms_ssim is not None
    assert good.real.ms_ssim is not None
    assert collapsed.synthetic.ms_ssim.low > good.synthetic.ms_ssim.high
    assert abs(good.synthetic.ms_ssim.value - good.real.ms_ssim.value) < 0.1


def test_given_test_true_the_recommended_point_alone_is_measured_on_test_patients(
    measured: tuple[Work, Metrics],
) -> None:
    sweep = measured[1].sweep
    assert sweep is not None
    assert sweep.test is not None
    assert sweep.test.fidelity.headline.b.num_images == 120
    assert sweep.test.fidelity.headline != sweep.points[2].fidelity.headline


def test_given_many_points_the_features_of_real_images_are_computed_once_and_not_again_by_another_stage(
    measured: tuple[Work, Metrics], datasets: dict[str, Path], model: Path
) -> None:
    first, metrics = measured
    assert metrics.sweep is not None
    assert (metrics.sweep.num_real_computed, metrics.sweep.num_real_seen) == (320, 320)
    again = stage(first.folder.path.parent / "again", datasets, model)
    found = finish(again).sweep
    assert found is not None
    assert (found.num_real_computed, found.num_real_seen) == (0, 200)  # this one never looks at test patients
    assert found.points == metrics.sweep.points
    digests = [{r.shard: r.digest for r in work.folder.receipts() if "-p0" in r.shard} for work in (first, again)]
    assert digests[0] == digests[1]


def test_given_a_damaged_file_of_the_cache_features_are_computed_anew(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    work = stage(tmp_path / "one", datasets, model)
    plan = freeze(work)
    run_pack(work, plan, ["model-real-00000"])
    (kept,) = (tmp_path / "cache" / "features").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    again = stage(tmp_path / "two", datasets, model)
    run_pack(again, freeze(again), ["model-real-00000"])
    receipts = [each.folder.receipts()[0] for each in (work, again)]
    assert receipts[0].digest == receipts[1].digest
    assert receipts[1].counts["computed"] == receipts[1].counts["images"]


def page_of(work: Work) -> str:
    root, settings = work.folder.path.parent, work.context.settings.model_dump(mode="json")
    (root / "run.json").write_text(json.dumps({"name": "planted", "created": "2026-11-25"}))
    (root / "config.yaml").write_text(json.dumps({"name": "planted", "seed": 5, "stages": [settings]}))
    return render(root)


def test_given_a_finished_sweep_the_page_shows_table_curve_and_how_often_test_patients_were_looked_at(
    measured: tuple[Work, Metrics],
) -> None:
    page = page_of(measured[0])
    assert "candidates, step 20, guidance 1" in page
    assert "KID over training steps" in page
    assert "Official test patients were looked at for one point, once." in page
    assert "computed for 320 of 320 real images" in page
    assert "Official test patients were looked at by 1 stage of this run: “choice”." in page


@pytest.fixture(scope="module")
def copying(nih_data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Metrics]:
    """Real radiographs, and a series of images of other patients, then, ten steps later, one of training images."""
    folder = tmp_path_factory.mktemp("copying")
    inputs = write_checkpoints(folder, radiographs(nih_data), num_real=300, num_copies=12)
    looks = {"percentile": 99.5, "num_train": 50, "num_planted": 20, "search_shard_size": 128}
    work = stage(folder / "run" / "choice", inputs, model, memorisation=looks)
    return work, finish(work)


def test_given_a_checkpoint_that_draws_training_images_it_raises_the_alarm_and_one_that_draws_other_patients_does_not(
    copying: tuple[Work, Metrics],
) -> None:
    sweep = copying[1].sweep
    assert sweep is not None
    honest, copied = (result.copies for result in sweep.points)
    assert honest is not None
    assert copied is not None
    assert (honest.alarm, copied.alarm) == (False, True)
    assert honest.share is not None
    assert honest.share.low <= honest.floor == 0.005
    assert copied.share is not None
    assert copied.share.value > 0.9
    assert copied.recall >= 0.95
    assert all(pair.training in pair.synthetic for pair in copied.pairs)
    assert "99.5 % of validation images" in alarm_rule(sweep)
    (alarm,) = [each for each in sweep.alarms if isinstance(each, SweepAlarm) and each.kind == "copies"]
    assert alarm.point == "p01"
    assert alarm_words(alarm, sweep).startswith("candidates, step 20, guidance 1: ")
    assert sweep.chosen != "p01"


def test_given_copies_the_page_shows_their_share_at_each_point_over_training_steps_and_by_name(
    copying: tuple[Work, Metrics],
) -> None:
    page = page_of(copying[0])
    for expected in (
        "Share of copies over training steps",
        "candidates, step 20, guidance 1 (copying alarm)",
        "Copies of training images, point by point",
        "The search was tried first: of planted copies it found at least",
        "Stage “choice” compares points: copies among their images are told there.",
    ):
        assert expected in page


def test_given_a_real_dataset_as_a_point_the_mistake_names_it(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    inputs = {"real": datasets["real"], "synthetic": datasets["real"]}
    with pytest.raises(UserError, match="is a real Dataset"):
        freeze(stage(tmp_path / "choice", inputs, model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sweep": {"features": "x", "select": {"split": "test"}}}, "chosen on test patients cannot be tried on them"),
        ({"sweep": {"features": "x"}, "fidelity": {"features": "x"}}, "a sweep looks at no fidelity"),
        (
            {"sweep": {"features": "x"}, "memorisation": {"targeted": {}}},
            "a sweep looks at no memorisation.targeted: put",
        ),
        ({"sweep": {}}, "sweep.features is 'judge', but inputs.judge is not set"),
        ({"inputs": {"real": "r", "synthetic": ["a", "b"]}}, "a list, which is for a sweep"),
    ],
)
def test_given_a_sweep_that_could_look_at_test_patients_the_config_is_refused(
    values: dict[str, Any], message: str
) -> None:
    given = {"inputs": {"real": "r", "synthetic": "s"}, **values}
    with pytest.raises(ValidationError, match=message):
        EvaluateStage(name="choice", kind="evaluate", **given)


def test_given_a_judge_tried_on_test_patients_the_config_is_refused() -> None:
    inputs = {"real": "r", "synthetic": "s", "judge": "j"}
    with pytest.raises(ValidationError, match="try its judge on validation patients"):
        EvaluateStage(name="choice", kind="evaluate", inputs=inputs, sweep={}, faithfulness={})
