"""Features and fidelity through the evaluate stage, with a small vision model in a local folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

import jobs.evaluate
from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.evaluation.extraction import read_extracted, real_images
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context, Estimate
from tests.pipeline import cxr
from tests.planted import planted_rows, write_planted
from tests.vision import WIDTH, small_vit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Planted images: 100 train, 120 test, 40 val of 16 px; 90 synthetic of 32 px."""
    folder = tmp_path_factory.mktemp("planted")
    rows = [
        row for split, num in (("train", 100), ("test", 120), ("val", 40)) for row in planted_rows(num, split=split)
    ]
    drawn = [dict(row, patient_id="", seed=1, generation="{}") for row in planted_rows(90, split="synthetic")]
    real = write_planted(folder / "real", rows, size=16)
    synthetic = write_planted(folder / "synthetic", drawn, size=32, synthetic=True)
    return {"real": real.folder, "synthetic": synthetic.folder}


def stage(folder: Path, inputs: dict[str, Path], features: Path | str, **values: Any) -> Work:
    given = {"fidelity": {"features": features, "num_resamples": 20, **values}}
    given["extraction"] = {"num_train": 80, "batch_size": 8, "shard_size": 64}
    if "judge" in inputs:
        given["faithfulness"] = {"num_resamples": 100, "num_permutations": 40}
    names = dict.fromkeys(inputs, "x")
    settings = EvaluateStage(name="study", kind="evaluate", inputs=names, threads=1, **given)
    folder.mkdir()
    return Work(StageFolder(folder), jobs.evaluate, Context(settings, inputs, 5, folder), {})


def finish(work: Work) -> Metrics:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Metrics.model_validate_json((work.folder.path / FILE).read_text())


def test_given_a_model_folder_the_stage_commits_features_and_measures_fidelity(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    work = stage(tmp_path / "study", datasets, model)
    result = finish(work).fidelity
    assert result is not None
    assert result.extractor.name == "vit (vit)"
    assert (result.extractor.width, result.extractor.output) == (WIDTH, "pooler output")
    assert (result.resize.real, result.resize.synthetic, result.resize.to) == (16, 32, 16)
    assert result.resize.method == "bilinear"
    assert result.headline.fid is not None
    assert result.floor.fid is not None
    assert (result.headline.a.num_images, result.headline.b.num_images) == (90, 160)
    assert (result.headline.coverage.share, result.headline.coverage.num_missing) == (1.0, 0)
    assert result.beside_floor.fid is not None
    assert result.beside_floor.fid.low > result.floor.fid.high  # the planted square is twice as large
    shards = [receipt.shard for receipt in work.folder.receipts()]
    assert [name for name in shards if name.startswith("model")] == [
        *(f"model-real-{i:05d}" for i in range(5)),
        *(f"model-synthetic-{i:05d}" for i in range(2)),
    ]


def test_given_a_config_the_command_measures_fidelity_and_the_page_shows_it(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    config = tmp_path / "alone.yaml"
    config.write_text(f"""\
name: alone
stages:
  - name: study
    kind: evaluate
    threads: 1
    inputs: {{real: {datasets["real"]}, synthetic: {datasets["synthetic"]}}}
    fidelity: {{features: {model}, num_resamples: 20}}
""")
    for words in (("run", config, "--runs", tmp_path), ("report", tmp_path / "alone")):
        done = cxr(*words)
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "Features of vit (vit)" in page
    assert "floor: half B – half A of held-out" in page


def test_given_committed_shards_features_are_in_the_order_of_image_ids_and_as_the_model_gives_them(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    import torch
    from transformers import AutoModel

    work = stage(tmp_path / "study", datasets, model)
    finish(work)
    found = read_extracted(work.folder.path, work.folder.receipts(), "model", "synthetic")
    assert found.features.shape == (90, WIDTH)
    assert found.features.dtype == np.float32
    assert found.rows["image_id"].is_monotonic_increasing
    real = read_extracted(work.folder.path, work.folder.receipts(), "model", "real")
    dataset = Dataset.open(datasets["real"])
    rows = dataset.rows.set_index("image_id", drop=False).loc[real.rows["image_id"].iloc[100:103]]
    pixels = torch.from_numpy(dataset.images(rows)).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(model)(pixels).pooler_output
    np.testing.assert_allclose(real.features[100:103], expected, atol=1e-5)


def test_given_the_same_inputs_the_shards_have_the_same_digests(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        work = stage(tmp_path / name / "study", datasets, model)  # in runs of their own, which share no cache
        metrics = finish(work)
        digests.append(({receipt.shard: receipt.digest for receipt in work.folder.receipts()}, metrics.fidelity))
    assert digests[0] == digests[1]


def cropped_vit(folder: Path, **values: Any) -> Any:
    from transformers import BitImageProcessorPil, ViTConfig, ViTModel

    crop = {"height": 16, "width": 16}
    BitImageProcessorPil(size={"shortest_edge": 20}, crop_size=crop, resample=3).save_pretrained(folder)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4), **values)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights that sees 32 px and tells two findings."""
    from cxr_core.models.classifier import build, save

    folder = tmp_path_factory.mktemp("judges") / "judge"
    save(build("small", 32, ("Effusion", "Edema"), seed=1), folder, {})
    return folder


def test_given_a_judge_who_knows_nothing_its_scores_are_committed_and_its_features_give_no_number(
    tmp_path: Path, datasets: dict[str, Path], judge: Path
) -> None:
    import torch

    from cxr_core.models.classifier import as_input, load

    work = stage(tmp_path / "study", {**datasets, "judge": judge}, "judge")
    result = finish(work).fidelity
    assert result is not None
    assert (result.extractor.kind, result.extractor.findings) == ("judge", ("Effusion", "Edema"))
    assert result.comparable is False
    assert result.headline.not_computed == (
        "the judge, whose features these are, failed its trial on held-out real patients for every finding"
    )
    scores = read_extracted(work.folder.path, work.folder.receipts(), "judge", "real", "scores")
    assert (scores.features.shape, scores.features.dtype) == ((240, 2), np.float32)
    dataset = Dataset.open(datasets["real"])
    rows = dataset.rows.set_index("image_id", drop=False).loc[scores.rows["image_id"].iloc[70:73]]
    with torch.inference_mode():
        expected = load(judge)(as_input(dataset.images(rows), 32)).sigmoid().cpu()
    np.testing.assert_allclose(scores.features[70:73], expected, atol=1e-5)


def test_given_a_folder_without_a_judge_the_mistake_says_what_is_wanted(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    with pytest.raises(UserError, match=r"neither a finished train stage nor a classifier's folder"):
        freeze(stage(tmp_path / "study", {**datasets, "judge": model}, "judge"))


def test_given_weights_without_a_pooler_the_cls_token_is_taken_and_not_a_random_pooler(tmp_path: Path) -> None:
    from cxr_core.evaluation.features import VisionFeatures

    cropped_vit(tmp_path, add_pooling_layer=False).save_pretrained(tmp_path)
    eyes = [VisionFeatures(tmp_path), VisionFeatures(tmp_path)]
    assert (eyes[0].about.output, eyes[0].about.width, eyes[0].about.size) == ("CLS token", WIDTH, 16)
    assert eyes[0].about.method == "bicubic, centre crop"
    image = np.random.default_rng(0).integers(256, size=(16, 16), dtype=np.uint8)
    first, second = (feature_model.encode(feature_model.preprocess(image)[None])[0] for feature_model in eyes)
    np.testing.assert_array_equal(first, second)


def test_given_weights_that_lack_a_layer_the_model_is_refused_and_the_layer_named(tmp_path: Path) -> None:
    from cxr_core.evaluation.features import VisionFeatures

    model = cropped_vit(tmp_path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layernorm" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match=r"the weights lack \d+ of the model's parameters: .*layernorm"):
        VisionFeatures(tmp_path)


def test_given_an_image_processor_that_does_not_resize_it_is_refused(tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    from cxr_core.evaluation.features import VisionFeatures

    cropped_vit(tmp_path).save_pretrained(tmp_path)
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not bring all images to one size"):
        VisionFeatures(tmp_path)


def test_given_a_model_that_masks_at_random_it_is_refused(tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEModel

    from cxr_core.evaluation.features import VisionFeatures

    cropped_vit(tmp_path)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTMAEModel(ViTMAEConfig(**sizes, image_size=16, patch_size=4, mask_ratio=0.75)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="gives other features for the same image"):
        VisionFeatures(tmp_path)


def test_given_other_weights_than_those_of_the_plan_no_shard_is_made(
    tmp_path: Path, datasets: dict[str, Path], model: Path
) -> None:
    from cxr_core.evaluation.features import open_feature_model

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    work = stage(tmp_path / "study", datasets, copy)
    plan = freeze(work)
    config = copy / "config.json"
    config.write_text(config.read_text() + "\n")
    open_feature_model.cache_clear()
    with pytest.raises(UserError, match="the feature extractor changed since the plan"):
        run_pack(work, plan, ["model-real-00000"])


def test_given_a_folder_that_is_no_model_the_mistake_names_it(tmp_path: Path, datasets: dict[str, Path]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty: not a vision model that AutoModel and AutoImageProcessor open"):
        freeze(stage(tmp_path / "study", datasets, empty))


def test_given_no_judge_the_settings_say_what_to_name() -> None:
    with pytest.raises(ValidationError, match=r"fidelity.features is 'judge', but inputs.judge is not set"):
        EvaluateStage(name="study", kind="evaluate", inputs={"real": "r", "synthetic": "s"}, fidelity={})
    with pytest.raises(ValidationError, match="shard_size 100 is no multiple of batch_size 64: take 128"):
        EvaluateStage(
            name="study",
            kind="evaluate",
            inputs={"real": "r", "synthetic": "s"},
            extraction={"shard_size": 100},
        )


def test_given_many_training_images_whole_patients_are_taken_by_hash_up_to_the_limit() -> None:
    rows = pd.DataFrame(planted_rows(100) + planted_rows(10, split="test"))
    chosen = real_images(rows, 31, seed=1)
    assert chosen["split"].value_counts().to_dict() == {"train": 30, "test": 10}
    assert (chosen["patient_id"].value_counts() == 2).all()
    assert set(real_images(rows, 61, seed=1)["image_id"]) > set(chosen["image_id"])
    assert set(real_images(rows, 31, seed=2)["image_id"]) != set(chosen["image_id"])


def test_given_datasets_to_come_the_estimate_counts_shards_of_features(model: Path, tmp_path: Path) -> None:
    inputs = {"real": Estimate(5000, 1, 1, 1), "synthetic": Estimate(100, 1, 1, 1)}

    def settings(folder: Path) -> EvaluateStage:
        given = {"fidelity": {"features": folder}, "inputs": {"real": "r", "synthetic": "s"}}
        return EvaluateStage(name="study", kind="evaluate", **given)

    expected = jobs.evaluate.estimate(settings(model), inputs)
    assert expected.num_shards == 1 + 5 + 1 + 2  # pictures, features, pairs of images
    assert "features of a model: at most 5100 images in 6 shards, 8 numbers an image" in expected.notes
    with pytest.raises(UserError, match=r"not a folder of a vision model: it has no config.json"):
        jobs.evaluate.estimate(settings(tmp_path), inputs)
