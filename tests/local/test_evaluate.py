"""The evaluate stage on Datasets with a planted answer, frozen, run and finalized as a run does it."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import jobs.evaluate
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.phantom import population
from cxr_core.errors import UserError
from cxr_core.evaluation import cnn
from cxr_core.evaluation.cohort import read_cohorts
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.settings import EvaluateStage, Utility
from cxr_core.evaluation.utility import load_images, read_scores
from cxr_core.models.training_data import ImageCounts, TrainingData
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.seeds import derive_seed
from tests.planted import planted_row, planted_rows, told_series, write_planted


def synthetic_rows(num: int) -> list[dict]:
    rows = planted_rows(num, split="synthetic")
    return [dict(row, patient_id="", seed=1, generation='{"steps":1}') for row in rows]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """16-px images with a bright square where there is Effusion: 120 train, 80 test, 60 synthetic."""
    folder = tmp_path_factory.mktemp("planted")
    real = write_planted(folder / "real", [*planted_rows(120), *planted_rows(80, split="test")], size=16)
    synthetic = write_planted(folder / "synthetic", synthetic_rows(60), size=16, synthetic=True)
    return {"real": real.folder, "synthetic": synthetic.folder}


def stage(folder: Path, inputs: dict[str, Path], **values: Any) -> Work:
    settings = EvaluateStage(
        name="study", kind="evaluate", inputs={"real": "r", "synthetic": "s"}, **{"threads": 1, **values}
    )
    folder.mkdir()
    return Work(StageFolder(folder), jobs.evaluate, Context(settings, inputs, 5, folder), {})


def finish(work: Work) -> Metrics:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Metrics.model_validate_json((work.folder.path / FILE).read_text())


def test_given_a_planted_square_every_arm_learns_it_and_synthetic_images_add_nothing(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    experiment = {"finding": "Effusion", "num_images": 80, "num_test": 80, "seeds": (0, 1)}
    metrics = finish(stage(tmp_path / "study", datasets, utility=[experiment]))
    (found,) = metrics.utility
    assert [arm.arm for arm in found.arms] == ["real", "mixed", "half", "doubled"]
    for arm in found.arms:
        assert arm.classifier is not None
        assert arm.classifier.accuracy.value > 0.9
        assert arm.view_only is not None
        assert arm.view_only.accuracy.value == 0.5
        assert [each.seed for each in arm.seeds] == [0, 1]
        ap, pa = arm.by_view
        assert (ap.view, ap.num_images, pa.view, pa.num_images) == ("AP", 26, "PA", 52)
        assert ap.scores is not None
        assert ap.scores.auroc.value > 0.9
    assert found.test is not None
    assert (found.test.num_images, found.test.num_shared_patients) == (78, 0)
    for value in (found.value_of_synthetic, found.value_at_equal_epochs):
        assert value is not None
        assert abs(value.accuracy.value) < 0.1
    assert [row.accuracy for row in metrics.published] == [0.81, 0.73]


def test_given_shuffled_labels_the_classifier_is_a_coin(tmp_path: Path) -> None:
    shuffled = []
    for split, num in (("train", 120), ("test", 200)):
        rows = planted_rows(num, split=split)
        for i, row in enumerate(rows):  # the square is drawn for Mass, of which nobody is asked
            row["labels"] = NIH.bit("Mass") | (NIH.bit("Effusion") if i // 2 % 2 else 0)
        shuffled += rows
    real = write_planted(tmp_path / "real", shuffled, size=16)
    synthetic = write_planted(tmp_path / "synthetic", synthetic_rows(4), size=16, synthetic=True)
    experiment = {"finding": "Effusion", "negatives": "Mass", "num_images": 120, "num_test": 200, "seeds": (0,)}
    work = stage(tmp_path / "study", {"real": real.folder, "synthetic": synthetic.folder}, utility=[experiment])
    arm = finish(work).utility[0].arms[0]
    assert arm.classifier is not None
    assert arm.classifier.auroc.low < 0.5 < arm.classifier.auroc.high


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantoms with Edema and without a finding, whose views go with it as in ChestX-ray14; others stand as made ones.

    The people are those of the phantom population; to save time, their images are the planted ones.
    """
    folder = tmp_path_factory.mktemp("phantoms")

    def people(seed: int, num: int, synthetic: bool) -> list[dict]:
        table = population(num, seed=seed, view_confounding=True)
        kept = table[(table["labels"] == 0) | (table["labels"] & NIH.bit("Edema") != 0)]
        made = {"split": "synthetic", "patient_id": "", "seed": 1, "generation": '{"steps":1}'} if synthetic else {}
        return [
            planted_row(
                row.image_id,
                **{"patient_id": row.patient_id, "split": row.split.removesuffix("_val"), **made},
                view=row.view,
                labels=row.labels,
            )
            for row in kept.itertuples()
        ]

    real = write_planted(folder / "real", people(1, 3000, synthetic=False), size=16)
    synthetic = write_planted(folder / "synthetic", people(2, 800, synthetic=True), size=16, synthetic=True)
    return {"real": real.folder, "synthetic": synthetic.folder}


@pytest.mark.parametrize("protocol", ["repaired", "as_written"])
def test_given_a_shortcut_by_view_the_view_alone_exposes_it_unless_views_are_matched(
    tmp_path: Path, phantoms: dict[str, Path], protocol: str
) -> None:
    common = {"finding": "Edema", "num_images": 32, "num_test": 40, "min_test": 30, "seeds": (0,), "epochs": 1}
    unmatched = {"match_views": False} if protocol == "repaired" else {"protocol": protocol}
    metrics = finish(stage(tmp_path / "study", phantoms, utility=[common, common | unmatched]))
    matched, exposed = metrics.utility
    for arm in matched.arms:
        assert arm.view_only is not None
        for number in (arm.view_only.accuracy, arm.view_only.auroc):
            assert (number.low, number.value, number.high) == (0.5, 0.5, 0.5)
    for arm in exposed.arms:
        assert arm.view_only is not None
        assert arm.view_only.accuracy.value > 0.6
        assert arm.view_only.accuracy.low > 0.5
    assert (matched.match_views, exposed.match_views) == (True, False)


def test_given_few_test_images_of_a_view_no_number_of_it_is_computed_and_n_is_stated(
    tmp_path: Path, phantoms: dict[str, Path]
) -> None:
    experiment = {"finding": "Edema", "num_images": 4, "num_test": 40, "min_test": 30, "seeds": (0,), "epochs": 1}
    (found,) = finish(stage(tmp_path / "study", phantoms, utility=[experiment])).utility
    for arm in found.arms:
        ap, pa = arm.by_view
        assert ap.num_images >= 20
        assert ap.scores is not None
        assert 0 < pa.num_images < 20
        assert pa.scores is None


def test_given_the_protocol_as_written_it_leaks_and_the_output_says_how_much(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    rows = [dict(row, patient_id=f"p{i // 6}") for i, row in enumerate(planted_rows(90))]
    real = write_planted(tmp_path / "real", rows, size=16)
    experiment = {"finding": "Effusion", "protocol": "as_written", "num_images": 44, "num_test": 40, "epochs": 1}
    work = stage(tmp_path / "study", datasets | {"real": real.folder}, utility=[experiment | {"seeds": (0, 1)}])
    (found,) = finish(work).utility
    assert found.is_leaky
    assert found.test is not None
    assert (found.test.num_images, found.test.num_shared_patients) == (40, 1), "images 42 to 47 are one patient's"
    assert [len(arm.seeds) for arm in found.arms] == [2, 2, 2, 2]
    assert [arm.by_view for arm in found.arms] == [(), (), (), ()]


def test_given_the_protocol_as_written_test_images_are_augmented_too(tmp_path: Path, datasets: dict[str, Path]) -> None:
    common = {"finding": "Effusion", "num_images": 16, "num_test": 8, "min_test": 2, "epochs": 1, "seeds": (0,)}
    leaky = common | {"protocol": "as_written"}
    work = stage(tmp_path / "study", datasets, utility=[leaky])
    finish(work)
    (real,) = [receipt for receipt in work.folder.receipts() if receipt.shard == "utility00-real-0"]
    scores, _ = read_scores(real, work.folder.path)
    cohort = read_cohorts(work.folder.path / "plan")[0]
    loaded = {
        use: load_images(Dataset.open(datasets["real"]), cohort.use(use)["image_id"], 16) for use in ("real", "test")
    }
    seed = derive_seed(5, 0)
    model, _ = cnn.train(loaded["real"], cohort.use("real")["label"].to_numpy(), Utility(**leaky), seed, label="again")
    np.testing.assert_array_equal(scores, cnn.predict(model, loaded["test"], derive_seed(seed, "test images")))
    assert not np.allclose(scores, cnn.predict(model, loaded["test"]), atol=1e-6)


SEEN = ImageCounts(images=30, patients=20)
LEARNT = TrainingData(images=90, patients=50, dataset="a" * 64, findings={"Effusion": SEEN, "No Finding": SEEN})


@pytest.mark.parametrize(
    ("learnt", "seen"),
    [
        (None, None),
        (LEARNT, (SEEN,)),
        (LEARNT.model_copy(update={"base": LEARNT}), (SEEN,)),
        (LEARNT.model_copy(update={"base": LEARNT.model_copy(update={"dataset": "b" * 64})}), (SEEN, SEEN)),
        (LEARNT.model_copy(update={"findings": {}}), None),
    ],
)
def test_given_a_synthetic_dataset_the_arm_that_uses_it_says_what_its_generator_saw(
    tmp_path: Path, datasets: dict[str, Path], learnt: TrainingData | None, seen: tuple[ImageCounts, ...] | None
) -> None:
    made = shutil.copytree(datasets["synthetic"], tmp_path / "made")
    info = read_json(made / "dataset.json")
    info["about"]["series"] = told_series(learnt)
    write_json(made / "dataset.json", info)
    experiment = {"finding": "Effusion", "num_images": 4, "num_test": 40, "epochs": 1, "seeds": (0,)}
    work = stage(tmp_path / "study", datasets | {"synthetic": made}, utility=[experiment])
    assert [arm.generator_saw for arm in finish(work).utility[0].arms] == [None, seen, None, None]


def test_given_a_dataset_that_says_it_in_another_form_its_file_is_named(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    made = shutil.copytree(datasets["synthetic"], tmp_path / "made")
    info = read_json(made / "dataset.json")
    write_json(made / "dataset.json", info | {"about": {"series": ["all of it"]}})
    experiment = {"finding": "Effusion", "num_images": 4, "num_test": 40, "epochs": 1, "seeds": (0,)}
    with pytest.raises(UserError, match=r"made/dataset.json: about.series is not of our form"):
        finish(stage(tmp_path / "study", datasets | {"synthetic": made}, utility=[experiment]))


def test_given_an_arm_with_too_few_images_it_alone_is_not_run(tmp_path: Path, datasets: dict[str, Path]) -> None:
    few = write_planted(tmp_path / "few", synthetic_rows(4), size=16, synthetic=True)
    experiment = {"finding": "Effusion", "num_images": 80, "num_test": 80, "seeds": (0,), "epochs": 1}
    work = stage(tmp_path / "study", datasets | {"synthetic": few.folder}, utility=[experiment])
    (found,) = finish(work).utility
    assert found.arms[1].not_run == "synthetic images with Effusion: 2 of 20; synthetic images with No Finding: 2 of 20"
    assert [arm.classifier is None for arm in found.arms] == [False, True, False, False]
    assert found.value_of_synthetic is None


def test_given_too_few_test_images_the_experiment_is_not_run_and_says_so(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    work = stage(tmp_path / "study", datasets, utility=[{"finding": "Edema", "num_images": 1000}])
    metrics = finish(work)
    assert [shard.id for shard in freeze(work).shards] == ["pictures"]
    assert metrics.utility[0].not_run == "real test images with Edema: 0 of 20"
    assert metrics.utility[0].arms == ()


def test_given_the_same_inputs_a_classifier_is_trained_to_the_same_digest(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    experiment = {"finding": "Effusion", "num_images": 16, "num_test": 80, "seeds": (3,), "epochs": 2}
    digests = []
    for name in ("one", "two"):
        work = stage(tmp_path / name, datasets, utility=[experiment])
        finish(work)
        digests.append([(receipt.shard, receipt.digest) for receipt in work.folder.receipts()])
    assert digests[0] == digests[1]
    assert len(dict(digests[0])) == 5


def test_given_findings_each_picture_shows_real_above_synthetic_at_whole_pixels(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    grids = {"findings": ["Effusion", "No Finding", "Hernia"], "num_columns": 3}
    work = stage(tmp_path / "study", datasets, grids=grids)
    effusion, none, hernia = finish(work).grids
    assert (effusion.num_columns, none.num_columns, hernia.num_columns, hernia.path) == (3, 3, 0, None)
    sheet = cv2.imread(str(work.folder.path / str(effusion.path)), cv2.IMREAD_UNCHANGED)
    tile = sheet[6 : 6 + 160, 6 : 6 + 160]
    small = tile[::10, ::10]
    np.testing.assert_array_equal(small.repeat(10, 0).repeat(10, 1), tile)
    real = Dataset.open(datasets["real"])
    assert any(np.array_equal(small, image) for image in real.images(real.rows))


def test_given_no_named_findings_those_with_the_most_synthetic_images_are_shown(
    tmp_path: Path, datasets: dict[str, Path]
) -> None:
    grids = finish(stage(tmp_path / "study", datasets)).grids
    assert {grid.finding for grid in grids} == {"No Finding", "Effusion"}


EXPERIMENT = Utility(finding="Effusion", num_images=132, epochs=3, augment="none")


@pytest.mark.parametrize(("num_images", "num_batches"), [(132, 3), (66, 2)])
def test_given_images_an_epoch_is_one_pass_over_them(num_images: int, num_batches: int) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from cxr_core.evaluation.cnn import train

    steps: list[object] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(_))
    train(np.zeros((num_images, 16, 16), np.uint8), np.arange(num_images) % 2, EXPERIMENT, 0, label="arm")
    hook.remove()
    assert len(steps) == EXPERIMENT.epochs * num_batches


def test_given_a_classifiers_loss_that_is_not_finite_stage_and_step_are_named() -> None:
    from cxr_core.evaluation.cnn import train

    images = np.full((8, 16, 16), np.nan, np.float32)
    with pytest.raises(UserError, match=r"stage 'study': Effusion, half: the classifier's loss is nan at step 1"):
        train(images, np.arange(8) % 2, EXPERIMENT, 0, label="stage 'study': Effusion, half")


@pytest.mark.parametrize("size", [16, 64, 224])
def test_given_an_image_size_the_cnn_has_the_studys_layers(size: int) -> None:
    import torch
    from torch import nn

    from cxr_core.evaluation.cnn import study_cnn

    model = study_cnn(size, seed=0)
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    dense = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.out_channels for layer in convolutions] == [128, 128, 64, 32]
    assert [layer.out_features for layer in dense] == [256, 128, 64, 2]
    assert model(torch.zeros(1, 1, size, size)).shape == (1, 2)


def test_given_the_studys_augmentation_images_are_flipped_both_ways_and_zoomed() -> None:
    import torch

    from cxr_core.evaluation.cnn import augment

    corner, middle = torch.zeros(400, 1, 16, 16), torch.zeros(400, 1, 16, 16)
    corner[:, :, :6, :6] = middle[:, :, 4:12, 4:12] = 1
    drawn = augment(corner, torch.Generator().manual_seed(0))
    places = torch.stack([drawn[:, 0, y, x].mean() for y, x in ((3, 3), (3, 12), (12, 3), (12, 12))])
    torch.testing.assert_close(places, torch.full((4,), 0.25), atol=0.07, rtol=0)
    sides = augment(middle, torch.Generator().manual_seed(0)).sum(dim=(1, 2, 3)).sqrt()
    assert 6.2 < sides.min() < 6.6  # 8 pixels, zoomed by 0.8
    assert 9.4 < sides.max() < 9.8  # and by 1.2
