"""PG-GAN training: what is optimised, and that an interrupted run is the undisturbed one at any scale and fade."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

import jobs.generate
import jobs.train
from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.evaluation.distances import fid
from cxr_core.export.model import export_model
from cxr_core.generation.pggan import open_pggan
from cxr_core.generation.reproduce import reproduce
from cxr_core.generation.settings import GenerateStage
from cxr_core.models import pggan
from cxr_core.models.checkpoints import final_checkpoint, read_checkpoints, weights_sha256
from cxr_core.models.normal import standard_normal
from cxr_core.models.pggan import doubled
from cxr_core.models.pggan_folder import PGGANS, read_info
from cxr_core.models.training_data import read_training_data
from cxr_core.report.read import RunView, StageView
from cxr_core.report.training import training_section
from cxr_core.runs.files import read_json, sha256_path
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.training.adversarial import AdversarialEngine
from cxr_core.training.growth import position_at
from cxr_core.training.pggan import PgganTask, gradient_penalty, new_model
from cxr_core.training.pggan_settings import PgganTrain
from jobs.config import RunConfig
from tests.planted import planted_rows, write_planted
from tests.training import finish, finish_afresh, forget, metrics, stage

SIZE = 16
VALUES: dict[str, Any] = {
    "name": "gan",
    "kind": "train",
    "model": "pggan",
    "inputs": {"dataset": "d"},
    "preset": "nano",
    "steps": 13,
    "batch_size": 4,
    "images_per_scale": 16,
    "fade_images": 12,
    "checkpoint_every": 5,
    "num_previews": 3,
    "threads": 1,
}
"""Four steps at 4 pixels, four at 8 of which three fade in, the rest at 16: ends in mid-fade at 8, and at 16 twice."""


def settings(**values: Any) -> PgganTrain:
    return PgganTrain(**{**VALUES, **values})


def gan_stage(folder: Path, dataset: Path, **values: Any) -> Work:
    return stage(folder, jobs.train, settings(**values), {"dataset": dataset})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = planted_rows(30) + planted_rows(6, split="val")
    return write_planted(tmp_path_factory.mktemp("data") / "real", rows, size=SIZE).folder


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(gan_stage(tmp_path_factory.mktemp("gan") / "gan", dataset))


def task(dataset: Path, **values: Any) -> PgganTask:
    own = settings(**values)
    return PgganTask(new_model(own, seed=3), Dataset.open(dataset), own, seed=7)


# Growing


def test_given_budgets_each_step_has_its_scale_fade_and_images() -> None:
    own = settings(scales={8: {"images_per_scale": 20, "fade_images": 16, "batch_size": 8}})
    found = [position_at(own, step) for step in range(10)]
    assert own.first_steps == (0, 4, 7)
    assert [at.scale for at in found] == [0] * 4 + [1] * 3 + [2] * 3
    assert [at.fade for at in found[3:]] == [1, 0.5, 1, 1, *(pytest.approx(k / 3) for k in (1, 2, 3))]
    assert [at.batch_size for at in found] == [4] * 4 + [8] * 3 + [4] * 3
    assert [at.first_image for at in found] == [0, 4, 8, 12, 16, 24, 32, 40, 44, 48]
    assert own.num_images(3, 8) == 4 + 3 * 8 + 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"steps": 10}, "after 10 steps it has not grown up to 16 pixels: give 11 steps at least"),
        ({"batch_size": 6}, "the batch at 4 pixels, 6, is no multiple of 4"),
        ({"scales": {32: {}}}, r"scales names \[32\], but nano has \[4, 8, 16\] pixels a side"),
        ({"scales": {8: {"images_per_scale": 4}}}, "at 8 pixels fade_images 12 exceeds images_per_scale 4"),
        (
            {"batch_size": 16, "images_per_scale": 64, "scales": {8: {"batch_size": 12}}, "ranks": {"per_node": 4}},
            r"the batch at 8 pixels, 12, cannot be split over 4 ranks in whole groups of 4: take a batch_size of 16, "
            r"or ranks whose number \(nodes \* per_node\) is one of 1 ",
        ),
        (
            {"batch_size": 48, "images_per_scale": 480, "steps": 99, "ranks": {"nodes": 5}},
            "is one of 1, 2, 3, 4, 6, 12",
        ),
        ({"ranks": {"zero": 0}}, "ranks.zero\n  Extra inputs are not permitted"),
    ],
)
def test_given_budgets_that_do_not_fit_the_error_tells_what_does(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        settings(**values)


# Losses


def test_given_a_score_with_a_known_gradient_the_penalty_is_the_closed_form() -> None:
    weights = torch.full((1, 2, 2), 3.0)  # a gradient of norm 6 everywhere
    images = torch.randn(5, 1, 2, 2)
    penalty = gradient_penalty(lambda given: (given * weights).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(25)
    slopes = torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]
    penalty = gradient_penalty(lambda given: (given * slopes).sum(dim=(1, 2, 3)), torch.zeros(3, 1, 1, 1))
    assert penalty.item() == pytest.approx((0.25 + 0 + 1) / 3)


def test_given_a_step_losses_are_the_wasserstein_ones_and_reach_their_own_network_alone(dataset: Path) -> None:
    one = task(dataset, gradient_penalty=0.0)
    at = position_at(one.settings, 5)
    real = one._real(at, range(4))
    fake = one.module.generator(one._latents("discriminator", 5, range(4)), 1, at.fade)
    scores = [one.module.discriminator(images, 1, at.fade) for images in (real, fake)]
    wanted = scores[1].mean() - scores[0].mean() + 1e-3 * scores[0].square().mean()
    found = one.loss(one.module, 5)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    found.backward()
    assert {name.split(".")[0] for name, p in one.module.named_parameters() if p.grad is not None} == {"discriminator"}
    one.module.zero_grad()
    one.generator_loss(one.module, 5).backward()
    assert {name.split(".")[0] for name, p in one.module.named_parameters() if p.grad is not None} == {"generator"}
    assert all(parameter.requires_grad for parameter in one.module.parameters())


def test_given_the_penalty_both_its_weight_and_all_scales_count(dataset: Path) -> None:
    values = {with_it: task(dataset, gradient_penalty=with_it) for with_it in (0.0, 10.0)}
    for step in (0, 5, 9):
        without, with_it = (float(one.loss(one.module, step).detach()) for one in values.values())
        assert with_it > without


def test_given_parts_of_whole_groups_their_losses_and_gradients_add_up_to_those_of_the_batch(dataset: Path) -> None:
    whole, parts = (task(dataset, batch_size=8, images_per_scale=32, ranks=ranks) for ranks in (None, {"per_node": 2}))
    assert (whole.num_parts, parts.num_parts) == (1, 2)
    for step in (1, 5, 9):
        for name in ("loss", "generator_loss"):
            (loss, gradient), (summed, of_parts) = (added_up(one, name, step) for one in (whole, parts))
            # What holds a gradient jumps where rounding crosses the kink of a leaky ReLU.
            assert summed == pytest.approx(loss, rel=1e-3)
            assert gradient.shape == of_parts.shape
            assert torch.linalg.norm(of_parts - gradient) <= 1e-3 * torch.linalg.norm(gradient)


def added_up(one: PgganTask, name: str, step: int) -> tuple[float, torch.Tensor]:
    """A loss over all parts of a batch, and its whole gradient."""
    one.module.zero_grad()
    total = sum(getattr(one, name)(one.module, step, part) for part in range(one.num_parts))
    total.backward()
    return total.item(), torch.cat([p.grad.flatten() for p in one.module.parameters() if p.grad is not None])


@pytest.mark.parametrize(("precision", "half"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_given_mixed_precision_losses_are_near_those_of_fp32_and_penalty_and_score_are_fp32(
    dataset: Path, precision: str, half: torch.dtype
) -> None:
    mixed, exact = (task(dataset, precision=each) for each in (precision, "fp32"))
    layers = mixed.module.discriminator
    formats: dict[str, list[torch.dtype]] = {"last": [], "score": []}
    for name, seen in formats.items():
        layers.get_submodule(name).register_forward_hook(lambda *found, seen=seen: seen.append(found[-1].dtype))
    engine = AdversarialEngine(mixed, mixed.settings)
    if engine.scaler.is_enabled():  # the first scale is so large that the first gradients overflow
        engine.scaler.load_state_dict(engine.scaler.state_dict() | {"scale": 2.0**10})
    rows, wanted = (one._some_steps(10) for one in (engine, AdversarialEngine(exact, exact.settings)))
    # Of each step: real images, fakes, those between them for the penalty; and the fakes of the generator's update.
    assert formats["last"] == [half, half, torch.float32, half] * 10
    assert set(formats["score"]) == {torch.float32}
    assert {p.dtype for p in engine.parameters.values()} == {torch.float32}
    for key in ("loss", "generator_loss", "grad_norm"):
        for row, other in zip(rows, wanted, strict=True):
            # Adam's first steps are as large for a gradient that is lost in rounding as for any other.
            assert row[key] == pytest.approx(other[key], rel=0.1, abs=0.1), (key, row["step"])


def test_given_a_fading_scale_real_images_are_as_sharp_as_those_drawn(dataset: Path) -> None:
    one = task(dataset)
    at = position_at(one.settings, 4)
    rows = one.dataset.images(one.rows.iloc[one.order.rows(16, 20)]) / 127.5 - 1
    fine = torch.from_numpy(rows).float()[:, None].unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-3, -1))
    coarse = doubled(fine.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean(dim=(-3, -1)))
    assert torch.allclose(one._real(at, range(4)), coarse + at.fade * (fine - coarse), atol=1e-5)


# What comes of it


def test_given_a_finished_stage_its_checkpoint_opens_and_says_what_it_is_and_what_it_learnt_from(
    undisturbed: Path, dataset: Path
) -> None:
    folder = final_checkpoint(undisturbed, "pggan")
    info = read_info(folder)
    assert (info.size, info.fade, info.channels, info.widths) == (16, 1.0, 1, PGGANS["nano"].widths)
    greys = pggan.load(folder).draw(torch.randn(2, info.latent_width))
    assert greys.shape == (2, SIZE, SIZE)
    learnt = read_training_data(folder)
    assert learnt is not None
    assert (learnt.images, learnt.dataset) == (30, Dataset.open(dataset).info.digest)
    assert read_json(folder / "pggan.json")["about"]["images"] == 13 * 4
    with pytest.raises(UserError, match="a PG-GAN's folder, where a Stable Diffusion folder is wanted"):
        final_checkpoint(undisturbed)


def test_given_a_finished_stage_when_exported_then_the_same_weights_open_beside_their_card(
    undisturbed: Path, tmp_path: Path
) -> None:
    record = export_model(undisturbed, tmp_path / "mine")
    folder = final_checkpoint(undisturbed, "pggan")
    assert record["weights_sha256"] == record["of_weights_sha256"] == weights_sha256(folder)
    assert record["dtype"] == "float32"
    z = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pggan.load(tmp_path / "mine").draw(z), pggan.load(folder).draw(z))
    assert read_training_data(tmp_path / "mine") == read_training_data(folder)
    card = (tmp_path / "mine" / "README.md").read_text()
    for text in (
        "unconditional-image-generation",
        "A PG-GAN of chest X-rays",
        record["weights_sha256"],
        "30 real images",
        "# mine",
    ):
        assert text in card, text
    assert "rounded" not in card


def test_given_metrics_each_row_has_both_losses_the_scale_and_the_fade(undisturbed: Path) -> None:
    rows = metrics(undisturbed)
    assert [row["image_size"] for row in rows] == [4] * 4 + [8] * 4 + [16] * 5
    assert [row["fade"] for row in rows[4:8]] == [pytest.approx(k / 3) for k in (1, 2, 3)] + [1]
    assert {"loss", "generator_loss", "grad_norm", "generator_grad_norm", "lr"} <= rows[0].keys()
    assert rows[-1]["validation_loss"] is None
    previews = [read_json(undisturbed / c.preview / "preview.json") for c in read_checkpoints(undisturbed)]
    assert [about["step"] for about in previews] == [5, 10, 13]


def test_given_training_the_generator_alone_is_averaged(dataset: Path) -> None:
    one = task(dataset)
    engine = AdversarialEngine(one, one.settings)
    before = {name: p.detach().clone() for name, p in one.module.named_parameters()}
    engine._some_steps(2)
    changed = {name for name, p in one.module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if not name.startswith(LATER)}
    assert engine.ema is not None
    assert {name.split(".")[0] for name in engine.ema.average} == {"generator"}


LATER = (
    *(f"generator.{part}" for part in ("blocks", "to_image.1", "to_image.2")),
    *(f"discriminator.{part}" for part in ("blocks", "from_image.1", "from_image.2")),
)


def test_given_a_transition_what_a_latent_gives_does_not_jump(dataset: Path) -> None:
    """Weights as they are after 4 pixels; the next step's layers count for nothing at a fade of almost nothing."""
    one = task(dataset)
    AdversarialEngine(one, one.settings)._some_steps(4)
    z = torch.randn(8, 32)
    with torch.no_grad():
        before, after, whole = (one.module.generator(z, scale, fade) for scale, fade in ((0, 1), (1, 1e-3), (1, 1)))
    assert (after - doubled(before)).abs().max() <= 2e-3 * (whole - doubled(before)).abs().max()


def test_given_a_pggan_when_reported_then_its_curves_and_what_its_latents_give_are_shown(undisturbed: Path) -> None:
    view = RunView(
        undisturbed.parent, {}, {}, "", (StageView(settings().model_dump(mode="json"), StageFolder(undisturbed)),)
    )
    blocks = training_section(view).blocks
    assert [type(block).__name__ for block in blocks] == ["Heading", "Charts", "PictureGrid"]
    assert blocks[0].text.startswith("PG-GAN")
    titles = [chart.alt.split(" over steps")[0] for chart in blocks[1].charts]
    assert titles[1:4] == ["generator's loss", "pixels a side", "share of the newest layers"]
    assert "the same latents" in blocks[2].caption


# Exact resume


def test_given_every_shard_in_a_new_process_losses_and_weights_are_those_of_one_process_bit_for_bit(
    tmp_path: Path, dataset: Path, undisturbed: Path
) -> None:
    reloaded = finish_afresh(gan_stage(tmp_path / "reloaded", dataset))
    assert metrics(reloaded) == metrics(undisturbed)
    assert sha256_path(final_checkpoint(reloaded, "pggan")) == sha256_path(final_checkpoint(undisturbed, "pggan"))


def test_given_a_checkpoint_after_every_step_the_same_weights_come_out(
    tmp_path: Path, dataset: Path, undisturbed: Path
) -> None:
    each = finish_afresh(gan_stage(tmp_path / "each", dataset, checkpoint_every=1))
    assert [row["loss"] for row in metrics(each)] == [row["loss"] for row in metrics(undisturbed)]
    weights = [final_checkpoint(folder, "pggan") / "pggan.safetensors" for folder in (each, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_given_images_that_do_not_fit_into_memory_the_losses_are_the_same(
    tmp_path: Path, dataset: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_core.training.pggan._MOST_IN_MEMORY", 0)
    assert metrics(finish(gan_stage(tmp_path / "decoded", dataset))) == metrics(undisturbed)


# What it learns


def test_given_training_at_all_scales_the_distance_to_the_images_falls_to_a_fifth(tmp_path: Path) -> None:
    rows, random = planted_rows(64), np.random.default_rng(1)
    for row in rows:
        row["pixels"] = np.zeros((SIZE, SIZE), np.uint8)
        row["pixels"][random.integers(2, 6) :, 4:12] = random.integers(120, 220)
    source = write_planted(tmp_path / "real", rows, size=SIZE)
    values = {"steps": 200, "images_per_scale": 480, "fade_images": 240, "batch_size": 8, "checkpoint_every": 200}
    folder = final_checkpoint(finish(gan_stage(tmp_path / "gan", source.folder, **values, ema_decay=0.9)), "pggan")
    latents = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    drawn = (model.draw(latents).numpy() for model in (pggan.load(folder), new_model(settings(**values), seed=3)))
    trained, untrained = (distance(greys, source.images(source.rows)) for greys in drawn)
    assert trained < untrained / 5


def distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """Frechet distance of means over 4 x 4 pixels."""
    features = [greys.reshape(-1, 4, 4, 4, 4).mean(axis=(2, 4)).reshape(-1, 16) for greys in (drawn, real)]
    return fid(*features, *(np.ones(len(each)) for each in features))


# Mistakes


def test_given_images_of_another_size_the_error_names_the_preset_and_both_sizes(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="the images have 16 pixels a side, but small draws 64"):
        freeze(gan_stage(tmp_path / "gan", dataset, preset="small", steps=1000))


def test_given_a_loss_that_is_not_finite_training_stops_and_names_step_and_images(
    tmp_path: Path, dataset: Path
) -> None:
    from safetensors.torch import load_file, save_file

    work = gan_stage(tmp_path / "gan", dataset)
    plan = freeze(work)
    run_pack(work, plan, ["00000"])
    state = next((work.folder.path / "shards").glob("*.state")) / "state.safetensors"
    tensors = load_file(state)
    tensors["weights/generator.first.weight"][0] = float("nan")
    save_file(tensors, state)
    forget()
    with pytest.raises(UserError, match=r"loss is nan and its gradient's norm nan at step 6, on train-\d+"):
        run_pack(work, plan, ["00001"])


# Drawing


def drawn_stage(folder: Path, gan: Path, dataset: Path, **values: Any) -> Work:
    defaults = {"request": {"counts": {"Effusion": 3, "No Finding": 4}}, "batch_size": 2, "shard_size": 4, "threads": 1}
    inputs = {"model": "gan", "like": "real"}
    made = GenerateStage(name="syn", kind="generate", inputs=inputs, **{**defaults, **values})
    return stage(folder, jobs.generate, made, {"model": gan, "like": dataset})


@pytest.fixture(scope="module")
def drawn(undisturbed: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(finish(drawn_stage(tmp_path_factory.mktemp("syn") / "syn", undisturbed, dataset)))


def test_given_a_pggan_each_image_is_what_its_seed_gives_and_the_dataset_says_that_labels_are_not_drawn(
    drawn: Dataset, undisturbed: Path
) -> None:
    rows, model = drawn.rows, pggan.load(final_checkpoint(undisturbed, "pggan"))
    assert len(rows) == 7
    assert rows["pixel_sha256"].nunique() == 7
    for row in rows.itertuples():
        z = torch.from_numpy(standard_normal([int(row.seed)], (model.info.latent_width,)))
        assert np.abs(model.draw(z)[0].numpy() - drawn.image(row)).max() <= 0.51
    (series,) = drawn.info.about["series"]
    assert (series["kind"], series["model"]) == ("pggan", weights_sha256(final_checkpoint(undisturbed, "pggan")))
    assert series["training_data"]["images"] == 30
    assert "guidance" not in json.loads(rows["generation"].iloc[0])
    problems = pd.read_csv(drawn.folder / "problems.csv")
    assert "a PG-GAN hears no words" in problems[problems["kind"] == "unheard"]["detail"].item()


def test_given_an_image_of_a_pggan_it_is_made_again_bit_for_bit(drawn: Dataset, undisturbed: Path) -> None:
    image_id = drawn.rows["image_id"].iloc[4]
    again = reproduce(drawn, image_id, final_checkpoint(undisturbed, "pggan"), strict=True)
    assert not again.difference.any()


def test_given_shards_in_another_order_and_process_the_digest_is_the_same(
    tmp_path: Path, drawn: Dataset, undisturbed: Path, dataset: Path
) -> None:
    work = drawn_stage(tmp_path / "syn", undisturbed, dataset)
    plan = freeze(work)
    for shard in reversed(plan.shards):
        open_pggan.cache_clear()
        run_pack(work, plan, [shard.id])
    finalize(work, plan)
    assert Dataset.open(work.folder.path).info.digest == drawn.info.digest


def test_given_half_precision_a_pggan_is_refused_before_anything_is_drawn(
    tmp_path: Path, undisturbed: Path, dataset: Path
) -> None:
    with pytest.raises(UserError, match="a PG-GAN draws in float32, not in float16"):
        freeze(drawn_stage(tmp_path / "syn", undisturbed, dataset, dtype="float16"))


def test_given_a_config_with_both_models_its_stages_fit_together() -> None:
    real = {"name": "real", "kind": "preprocess", "data": {"kind": "phantom", "num_images": 20}, "size": 16}
    gan = {**VALUES, "inputs": {"dataset": "real"}}
    syn = {"name": "syn", "kind": "generate", "inputs": {"model": "gan", "like": "real"}}
    syn["request"] = {"like": "train", "num_images": 4}
    assert RunConfig(name="r", stages=[real, gan, syn]).stage("gan").model == "pggan"
    base = {"name": "l", "kind": "latents", "inputs": {"dataset": "real", "base": "gan"}}
    with pytest.raises(ValidationError, match=r"input 'base' wants a .* but 'gan' is 'train\.pggan'"):
        RunConfig(name="r", stages=[real, gan, base])
