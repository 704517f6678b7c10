"""The judge: a classifier that learns findings, resumes exactly, is saved and opened again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import jobs.train
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.evaluation.intervals import Bootstrap
from cxr_core.models import classifier
from cxr_core.models.checkpoints import final_checkpoint, read_checkpoints
from cxr_core.models.classifier import Classifier, as_input
from cxr_core.models.classifier_folder import classifier_sha256, read_about, read_info
from cxr_core.models.importing.judge import import_judge
from cxr_core.models.presets import CLASSIFIERS
from cxr_core.report.read import RunView, StageView
from cxr_core.report.training import training_section
from cxr_core.runs.files import read_json, sha256_path, size_of, walk_files, write_json
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from cxr_core.training.augment import NUM_DRAWS, mild
from cxr_core.training.classifier import ClassifierTask
from cxr_core.training.engine import Engine
from cxr_core.training.judge_settings import ClassifierTrain
from jobs.config import RunConfig
from tests.planted import planted_rows, write_planted
from tests.training import forget

SIZE = 32
VALUES: dict[str, Any] = {
    "name": "judge",
    "kind": "train",
    "model": "classifier",
    "inputs": {"dataset": "d"},
    "steps": 4,
    "checkpoint_every": 2,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "threads": 1,
}


def stage(folder: Path, dataset: Path, **values: Any) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(ClassifierTrain(**{**VALUES, **values}), {"dataset": dataset}, 11, folder)
    return Work(StageFolder(folder), jobs.train, context, {})


def finish(work: Work, *, between: Any = lambda: None) -> Path:
    plan = freeze(work)
    for shard in plan.shards:
        run_pack(work, plan, [shard.id])
        between()
    finalize(work, plan)
    return work.folder.path


def metrics(folder: Path) -> list[dict[str, Any]]:
    paths = [folder / checkpoint.metrics for checkpoint in read_checkpoints(folder)]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = planted_rows(96) + planted_rows(40, split="val") + planted_rows(60, split="test")
    return write_planted(tmp_path_factory.mktemp("data") / "real", rows, size=SIZE).folder


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {"steps": 200, "checkpoint_every": 100, "batch_size": 16, "ema_decay": 0.98, "warmup_steps": 10}
    return finish(stage(tmp_path_factory.mktemp("judge") / "judge", dataset, **values))


@torch.no_grad()
def logits(model: Classifier, dataset: Dataset, split: str) -> np.ndarray:
    images = dataset.images(dataset.rows[dataset.rows["split"] == split])
    return model(as_input(images, model.info.image_size).to(model.device)).cpu().numpy()


# What it learns


def judged(folder: Path, dataset: Path) -> Any:
    """AUROC with its interval, on patients that training never saw."""
    source = Dataset.open(dataset)
    rows = source.rows[source.rows["split"] == "test"]
    scores = torch.from_numpy(logits(classifier.load(final_checkpoint(folder, "classifier")), source, "test"))
    labels = (rows["labels"] > 0).to_numpy().astype(int)
    bootstrap = Bootstrap(labels, rows["patient_id"].to_numpy(), 1, seed=5)
    return bootstrap.one(scores.sigmoid().numpy()[:, 0]).auroc


def test_given_a_planted_square_when_trained_then_it_is_told_on_patients_never_seen(
    trained: Path, dataset: Path
) -> None:
    assert judged(trained, dataset).value > 0.9
    rows = metrics(trained)
    assert rows[-1]["validation_auroc"] == rows[-1]["auroc"]["Effusion"] > 0.9
    assert rows[-1]["validation_loss"] < rows[99]["validation_loss"]
    assert [row["step"] for row in rows if "validation_loss" in row] == [100, 200]


def test_given_shuffled_labels_when_trained_then_auroc_is_a_coin_within_its_interval(tmp_path: Path) -> None:
    rows = planted_rows(96) + planted_rows(60, split="test")
    source = write_planted(tmp_path / "real", rows, size=16).folder
    # The labels are dealt anew among images that stay as they were drawn.
    table = Dataset.open(source).rows
    table["labels"] = np.random.default_rng(2).permutation(table["labels"].to_numpy())
    table.to_parquet(source / "index.parquet")
    folder = finish(
        stage(tmp_path / "judge", source, steps=60, checkpoint_every=60, batch_size=16, validation_images=0)
    )
    area = judged(folder, source)
    assert area.low <= 0.5 <= area.high
    assert metrics(folder)[-1]["validation_loss"] is None


def test_given_no_finding_named_then_all_that_training_images_have_are_told_in_the_datasets_order(
    tmp_path: Path,
) -> None:
    rows = planted_rows(6, finding="Mass") + planted_rows(2, split="val", finding="Hernia")
    rows[0]["labels"] = NIH.bit("Edema") | NIH.bit("Atelectasis")
    source = write_planted(tmp_path / "real", rows, size=16).folder
    folder = final_checkpoint(finish(stage(tmp_path / "judge", source)), "classifier")
    assert read_info(folder) == classifier.ClassifierInfo("small", 16, ("Atelectasis", "Mass", "Edema"), 64)
    about = read_about(folder)
    assert about["dataset"] == Dataset.open(source).info.digest
    assert (about["steps"], about["num_images"], about["num_patients"]) == (4, 6, 3)
    assert about["findings"]["Mass"] == {"num_images": 3, "num_patients": 3}
    assert about["findings"]["Edema"] == {"num_images": 1, "num_patients": 1}


def test_given_rare_findings_when_balanced_their_images_weigh_more_but_at_most_twenty_times(tmp_path: Path) -> None:
    rows = planted_rows(50)
    for row in rows:
        row["labels"] = 0
    rows[7]["labels"] = NIH.bit("Mass") | NIH.bit("Edema")
    for row in rows[8:17]:
        row["labels"] = NIH.bit("Edema")
    source = write_planted(tmp_path / "real", rows, size=16)
    model = classifier.build("small", 16, ("Mass", "Edema"), seed=0)

    def loss(*, balance: bool) -> torch.Tensor:
        settings = ClassifierTrain(**VALUES, balance=balance, validation_images=0)
        task = ClassifierTask(model, source, settings, seed=0)
        return task._errors(torch.zeros(1, 2), np.ones((1, 2), np.float32))

    assert (loss(balance=True) / loss(balance=False)).tolist() == [[pytest.approx(20.0), pytest.approx(4.0)]]


def test_given_more_images_than_are_kept_in_memory_then_each_batch_is_decoded_and_losses_are_the_same(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = finish(stage(tmp_path / "kept", dataset, image_size=16))
    monkeypatch.setattr("cxr_core.training.classifier._MOST_IN_MEMORY", 0)
    decoded = finish(stage(tmp_path / "decoded", dataset, image_size=16))
    assert metrics(kept) == metrics(decoded)
    assert read_info(final_checkpoint(decoded, "classifier")).image_size == 16


# Exact resume


@pytest.fixture(params=["small", "densenet121"])
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_given_each_interval_in_a_new_process_then_losses_weights_and_buffers_are_those_of_one_run_bit_for_bit(
    tmp_path: Path, dataset: Path, preset: str
) -> None:
    values = {"preset": preset, "steps": 2, "checkpoint_every": 1, "batch_size": 4, "validation_images": 2}
    whole = finish(stage(tmp_path / "whole", dataset, **values))
    parts = finish(stage(tmp_path / "parts", dataset, **values), between=forget)
    assert metrics(whole) == metrics(parts)
    ends = [final_checkpoint(folder, "classifier") for folder in (whole, parts)]
    assert sha256_path(ends[0]) == sha256_path(ends[1])


def test_given_batch_norm_then_its_statistics_are_learnt_averaged_and_exported_and_training_keeps_its_own(
    tmp_path: Path, dataset: Path
) -> None:
    settings = ClassifierTrain(**{**VALUES, "preset": "densenet121", "validation_images": 0, "batch_size": 4})
    model = classifier.build("densenet121", SIZE, ("Effusion",), seed=0)
    engine = Engine(ClassifierTask(model, Dataset.open(dataset), settings, 0), settings)
    name = next(name for name in engine.buffers if name.endswith("running_mean"))
    engine._some_steps(2)
    own = engine.buffers[name].clone()
    with engine.exported():
        assert not model.training
        assert not torch.equal(engine.buffers[name], own)
        model(torch.ones(2, 1, SIZE, SIZE))
    assert model.training
    assert torch.equal(engine.buffers[name], own)
    assert own.abs().max() > 0
    counts = {int(b) for name, b in engine.buffers.items() if name.endswith("num_batches_tracked")}
    assert counts == {2}


def test_given_a_model_without_buffers_then_its_state_has_none_and_one_with_them_refuses_it(
    tmp_path: Path, dataset: Path
) -> None:
    def engine(preset: str) -> Engine:
        settings = ClassifierTrain(**{**VALUES, "preset": preset, "validation_images": 0})
        model = classifier.build(preset, SIZE, ("Effusion",), seed=0)
        return Engine(ClassifierTask(model, Dataset.open(dataset), settings, 0), settings)

    engine("small").save(tmp_path / "state")
    assert {name.split("/")[0] for name in load_file(tmp_path / "state" / "state.safetensors")} == {"weights", "ema"}
    engine("small").load(tmp_path / "state")
    with pytest.raises(UserError, match="the training state is of another model"):
        engine("densenet121").load(tmp_path / "state")


# The folder


@pytest.mark.parametrize("name", ["small", "resnet18", "densenet121"])
def test_given_a_preset_its_parameters_and_features_are_as_stated(name: str) -> None:
    model, about = classifier.build(name, SIZE, ("A", "B"), seed=0).eval(), CLASSIFIERS[name]
    assert 4 * sum(p.numel() for p in model.parameters()) == about.num_bytes(2)
    with torch.no_grad():
        pixels = torch.zeros(3, 1, SIZE, SIZE)
        assert model.features(pixels).shape == (3, about.feature_width)
        assert model(pixels).shape == (3, 2)


def test_given_a_saved_folder_when_opened_then_logits_are_equal_and_saved_again_its_bytes_are(
    trained: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = final_checkpoint(trained, "classifier")
    model = classifier.load(folder)
    classifier.save(model, tmp_path / "again", read_about(folder))
    again = classifier.load(tmp_path / "again")
    assert not again.training
    source = Dataset.open(dataset)
    assert np.array_equal(logits(again, source, "val"), logits(model, source, "val"))
    assert classifier_sha256(tmp_path / "again") == classifier_sha256(folder)


def test_given_one_seed_the_weights_are_the_same_whatever_was_drawn_before() -> None:
    first = classifier.build("small", SIZE, ("A",), seed=3).state_dict()
    torch.manual_seed(99)
    second, other = (classifier.build("small", SIZE, ("A",), seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def harms(folder: Path) -> Iterator[tuple[str, Any]]:
    about, weights = folder / "classifier.json", folder / "classifier.safetensors"
    value, data = read_json(about), weights.read_bytes()
    yield r"classifier\.json: damaged", about.unlink
    yield r"classifier\.json: damaged \(findings", lambda: write_json(about, {**value, "findings": "Effusion"})
    yield r"format 2, but this version reads 1", lambda: write_json(about, {**value, "format": 2})
    yield r"its preset 'huge' is none of small", lambda: write_json(about, {**value, "preset": "huge"})
    yield r"safetensors: damaged \(head.bias is", lambda: write_json(about, {**value, "findings": ["A", "B"]})
    yield r"safetensors: damaged", weights.unlink
    yield r"safetensors: damaged", lambda: weights.write_bytes(data[: len(data) // 2])


def test_given_weights_trained_elsewhere_then_they_are_taken_whole_or_every_tensor_that_does_not_fit_is_listed(
    trained: Path, tmp_path: Path
) -> None:
    folder = final_checkpoint(trained, "classifier")
    info = read_info(folder)
    weights = load_file(folder / "classifier.safetensors")
    save_file(weights, tmp_path / "mine.safetensors")
    import_judge(tmp_path / "mine.safetensors", tmp_path / "judge", info.preset, info.findings, info.image_size)
    adopted = classifier.load(tmp_path / "judge")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in adopted.state_dict().items())
    assert weights.pop("head.bias") is not None
    weights |= {"classifier.0.bias": torch.zeros(14), "head.weight": torch.zeros(14, 64)}
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as caught:
        import_judge(tmp_path / "other.safetensors", tmp_path / "no", info.preset, info.findings, info.image_size)
    assert "1 are missing: head.bias" in str(caught.value)
    assert "1 are of something else: classifier.0.bias" in str(caught.value)
    assert f"head.weight is (14, 64), not ({len(info.findings)}, 64)" in str(caught.value)
    assert not (tmp_path / "no").exists()


def test_given_a_damaged_folder_when_opened_then_the_file_is_named(trained: Path, tmp_path: Path) -> None:
    whole = final_checkpoint(trained, "classifier")
    for i in range(7):
        folder = shutil.copytree(whole, tmp_path / str(i))
        message, harm = list(harms(folder))[i]
        harm()
        with pytest.raises(UserError, match=message):
            classifier.load(folder)


def test_given_the_wrong_kind_of_folder_then_both_kinds_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a classifier's folder, where a Stable Diffusion folder is wanted"):
        final_checkpoint(trained)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="a Stable Diffusion folder, where a classifier's folder is wanted"):
        final_checkpoint(tmp_path, "classifier")
    with pytest.raises(UserError, match=r"nor a classifier's folder \(it has no classifier\.json\)"):
        final_checkpoint(tmp_path.parent, "classifier")


def test_given_images_of_another_size_then_they_are_averaged_over_areas_and_scaled_to_one() -> None:
    images = np.zeros((1, 4, 4), np.uint8)
    images[0, :2, :2] = 255
    assert as_input(images, 2).tolist() == [[[[1.0, -1.0], [-1.0, -1.0]]]]
    assert as_input(images, 4).shape == (1, 1, 4, 4)
    assert as_input(images, 8).shape == (1, 1, 8, 8)


# Augmentation


def test_given_no_draw_images_stay_and_given_any_they_move_little_and_are_never_flipped() -> None:
    rows = torch.linspace(-0.8, 0.8, 32)
    pixels = rows.expand(64, 1, 32, 32).contiguous()
    assert torch.allclose(mild(pixels, np.zeros((64, NUM_DRAWS))), pixels, atol=1e-5)
    draws = np.random.default_rng(0).uniform(-1, 1, (64, NUM_DRAWS))
    changed = mild(pixels, draws)
    assert not torch.allclose(changed, pixels, atol=0.05)
    assert (changed[..., -4:].mean((1, 2, 3)) > changed[..., :4].mean((1, 2, 3)) + 1).all()
    assert changed.abs().max() <= 1


def test_given_a_shift_of_a_twentieth_then_the_image_moves_by_that_many_pixels() -> None:
    pixels = torch.full((1, 1, 40, 40), -1.0)
    pixels[0, 0, 20, 20] = 1.0
    draws = np.zeros((1, NUM_DRAWS))
    draws[0, 0] = -1
    assert divmod(int(mild(pixels, draws).argmax()), 40) == (20, 22)


# What is asked for wrongly


def test_given_a_classifier_as_the_base_of_a_diffusion_model_then_the_config_names_the_kinds(tmp_path: Path) -> None:
    judge = {**VALUES, "inputs": {"dataset": str(tmp_path)}}
    fine = {**VALUES, "name": "fine", "model": "diffusion", "inputs": {"latents": str(tmp_path), "base": "judge"}}
    assert RunConfig(name="r", stages=[judge]).stage("judge").model == "classifier"
    with pytest.raises(
        ValidationError, match=r"wants a train\.diffusion or train\.text_encoder or train\.vae stage, but 'judge' is"
    ):
        RunConfig(name="r", stages=[judge, fine])


def test_given_a_plan_its_bytes_are_those_that_stay(trained: Path, dataset: Path) -> None:
    settings = ClassifierTrain(**{**VALUES, "steps": 200, "checkpoint_every": 100, "findings": ["Effusion"]})
    planned = jobs.train.estimate(settings, {"dataset": dataset})
    assert size_of(trained / "shards") == pytest.approx(planned.num_bytes, rel=0.05)
    assert len(walk_files(trained / "shards")) <= planned.num_files


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"findings": ["Effusion", "Rickets"]}, r"stage 'judge', findings: the Dataset knows no finding 'Rickets'"),
        ({"findings": ["No Finding"]}, "No Finding is an image without any of them, and no output"),
        ({"findings": ["Effusion", "Hernia"]}, r"no training image has Hernia\n.*training images have: Effusion"),
        ({"preset": "densenet121", "image_size": 16}, "densenet121 needs images of at least 32 pixels a side, not 16"),
        ({"preset": "densenet121", "batch_size": 1}, "densenet121 cannot learn from one image a step"),
    ],
)
def test_given_what_cannot_be_learnt_when_frozen_then_it_is_named(
    tmp_path: Path, dataset: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        freeze(stage(tmp_path / "judge", dataset, **values))
    assert not (tmp_path / "judge" / "plan.jsonl").exists()


def test_given_a_dataset_without_labels_or_held_out_patients_when_frozen_then_that_is_named(tmp_path: Path) -> None:
    rows = planted_rows(4)
    source = write_planted(tmp_path / "real", rows, size=16).folder
    with pytest.raises(UserError, match="no image is in the split val"):
        freeze(stage(tmp_path / "judge", source))
    healthy = write_planted(tmp_path / "healthy", [{**row, "labels": 0} for row in rows], size=16).folder
    with pytest.raises(UserError, match="no training image has any finding"):
        freeze(stage(tmp_path / "other", healthy, validation_images=0))


def test_given_a_finding_twice_then_the_settings_say_so() -> None:
    with pytest.raises(ValidationError, match="findings names Mass twice"):
        ClassifierTrain(**VALUES, findings=["Mass", "Edema", "Mass"])


# The report


def test_given_a_classifier_when_reported_then_its_curves_are_shown_and_no_pictures(trained: Path) -> None:
    settings = ClassifierTrain(**VALUES).model_dump(mode="json")
    view = RunView(trained.parent, {}, {}, "", (StageView(settings, StageFolder(trained)),))
    blocks = training_section(view).blocks
    assert [type(block).__name__ for block in blocks] == ["Heading", "Charts"]
    assert "Classifier (judge)" in blocks[0].text
    alts = [chart.alt.split(" over steps")[0] for chart in blocks[1].charts]
    assert alts[1:3] == ["validation loss", "validation AUROC, mean over findings"]
