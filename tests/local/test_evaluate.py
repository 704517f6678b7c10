"""The evaluate stage on Datasets with a planted answer, frozen, run and finalized as a run does it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import jobs.evaluate
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.settings import EvaluateStage, Utility
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from tests.planted import planted_rows, write_planted


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
    assert [arm.arm for arm in found.arms] == ["real", "mixed", "half"]
    for arm in found.arms:
        assert arm.classifier is not None
        assert arm.classifier.accuracy.value > 0.9
        assert arm.view_only is not None
        assert arm.view_only.accuracy.value < 0.65
        assert [each.seed for each in arm.seeds] == [0, 1]
    assert found.test is not None
    assert (found.test.num_images, found.test.num_patients) == (80, 40)
    assert found.value_of_synthetic is not None
    assert abs(found.value_of_synthetic.accuracy.value) < 0.1
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


def test_given_a_finding_that_goes_with_the_view_the_view_only_baseline_exposes_it(tmp_path: Path) -> None:
    rows = [*planted_rows(80), *planted_rows(80, split="test")]
    for row in rows:
        row["view"] = "AP" if row["labels"] else "PA"
    real = write_planted(tmp_path / "real", rows, size=16)
    synthetic = write_planted(tmp_path / "synthetic", synthetic_rows(4), size=16, synthetic=True)
    experiment = {"finding": "Effusion", "num_images": 80, "num_test": 80, "seeds": (0,), "epochs": 1}
    work = stage(tmp_path / "study", {"real": real.folder, "synthetic": synthetic.folder}, utility=[experiment])
    arms = finish(work).utility[0].arms
    assert arms[0].view_only is not None
    assert arms[0].view_only.accuracy.value == 1.0
    assert arms[1].not_run == ("synthetic images with Effusion: 2 of 20; synthetic images with No Finding: 2 of 20")
    assert arms[2].view_only is not None


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
    assert len(dict(digests[0])) == 4


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


@pytest.mark.parametrize("num_images", [132, 66])
def test_given_n_images_or_half_of_them_the_classifier_takes_the_optimiser_steps_of_n(num_images: int) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from cxr_core.evaluation.cnn import train

    steps: list[object] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(_))
    train(np.zeros((num_images, 16, 16), np.uint8), np.arange(num_images) % 2, EXPERIMENT, 0, label="arm")
    hook.remove()
    assert len(steps) == 3 * 3  # batches of 64, 64 and 4 of n images, three times


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
