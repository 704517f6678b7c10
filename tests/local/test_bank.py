"""Latents of real images: found, kept with the names of the images, and drawn from by findings."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

import jobs.generate
import jobs.invert
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.sheet import cells_of
from cxr_core.errors import UserError
from cxr_core.generation.bank_folder import Bank
from cxr_core.generation.bank_settings import InvertStage
from cxr_core.generation.class_latents import ClassLatents
from cxr_core.generation.inversion import Inverter, project
from cxr_core.generation.pggan import open_pggan
from cxr_core.generation.reproduce import reproduce
from cxr_core.generation.settings import GenerateStage
from cxr_core.models import pggan
from cxr_core.models.pggan import PgGan
from cxr_core.models.pggan_folder import NANO, PgganInfo
from cxr_core.report.blocks import Gallery, Text
from cxr_core.report.read import read_run
from cxr_core.report.sections import sections
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from tests.planted import planted_rows, write_planted
from tests.training import finish, stage
from tests.unit import report_run

SIZE = 16
INFO = PgganInfo(NANO.latent_width, NANO.widths, channels=1, scale=2)


def invert(**values: Any) -> InvertStage:
    defaults = {
        "findings": ("Effusion", "No Finding"),
        "images_each": 5,
        "steps": 5,
        "restarts": 1,
        "candidates": 8,
        "threads": 1,
    }
    inputs = {"gan": "g", "dataset": "d"}
    given = {**defaults, "batch_size": 2, "shard_size": 4, **values}
    return InvertStage(name="bank", kind="invert", inputs=inputs, **given)


def bank_stage(folder: Path, gan: Path, dataset: Path, **values: Any) -> Work:
    return stage(folder, jobs.invert, invert(**values), {"gan": gan, "dataset": dataset})


def drawn_stage(folder: Path, gan: Path, dataset: Path, bank: Path, **values: Any) -> Work:
    defaults = {"request": {"counts": {"Effusion": 4, "No Finding": 3}}, "batch_size": 2, "shard_size": 4, "threads": 1}
    inputs = {"model": "gan", "like": "real", "bank": "bank"}
    made = GenerateStage(name="syn", kind="generate", inputs=inputs, **{**defaults, **values})
    return stage(folder, jobs.generate, made, {"model": gan, "like": dataset, "bank": bank})


@pytest.fixture(scope="module")
def model() -> PgGan:
    return pggan.build(INFO, seed=3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def gan(model: PgGan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "gan"
    pggan.save(model, folder, {}, scale=2, fade=1.0)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("data") / "real", planted_rows(20), size=SIZE).folder


@pytest.fixture(scope="module")
def bank(gan: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(bank_stage(tmp_path_factory.mktemp("bank") / "bank", gan, dataset))


# Searching


def test_given_images_that_the_model_drew_a_search_finds_latents_that_draw_them_again(model: PgGan) -> None:
    z = torch.randn(3, 32, generator=torch.Generator().manual_seed(9))
    images = model.draw(z).round().byte().numpy()
    start, found = (Inverter(model, invert(steps=n, candidates=1), seed=1).find(images).errors for n in (1, 40))
    assert (found < start).all()
    assert found.mean() < start.mean() / 1.5


def test_given_candidates_then_a_search_starts_from_the_one_that_draws_what_is_nearest(model: PgGan) -> None:
    z = torch.randn(8, 32, generator=torch.Generator().manual_seed(9))
    images = model.draw(z).round().byte().numpy()
    still = {"steps": 1, "learning_rate": 1e-6}
    one, many = (Inverter(model, invert(candidates=n, **still), seed=3).find(images).errors for n in (1, 200))
    assert (many <= one).all()
    assert many.mean() < one.mean() / 1.5


def test_given_restarts_the_best_is_kept_and_no_image_hangs_on_its_batch(model: PgGan) -> None:
    images = np.random.default_rng(2).integers(0, 255, (2, SIZE, SIZE), dtype=np.uint8)
    one, two = (Inverter(model, invert(steps=4, restarts=n), seed=5).find(images) for n in (1, 2))
    assert (two.errors <= one.errors + 1e-6).all()
    alone = Inverter(model, invert(steps=4, restarts=1), seed=5).find(images[1:])
    assert np.allclose(alone.latents[0], one.latents[1], atol=1e-3)


def test_given_the_studys_way_latents_are_the_discriminators_normed_features(model: PgGan) -> None:
    pixels = torch.rand(2, 1, SIZE, SIZE)
    features = model.discriminator.features(pixels, 2)
    wanted = features / features.square().mean(dim=1, keepdim=True).sqrt()
    assert torch.allclose(project(model, pixels), wanted, atol=1e-4)


# Classes


def test_given_many_latents_a_class_has_their_mean_and_covariance() -> None:
    random = np.random.default_rng(4)
    mixing = random.normal(size=(6, 6))
    latents = random.normal(size=(5000, 6)) @ mixing.T + 3
    fitted = ClassLatents.fit(latents)
    drawn = fitted.draw(random.normal(size=(20000, 6)))
    assert np.allclose(drawn.mean(axis=0), latents.mean(axis=0), atol=0.1)
    assert np.allclose(np.cov(drawn.T), np.cov(latents.T), atol=0.05 * np.abs(np.cov(latents.T)).max())


def test_given_fewer_latents_than_numbers_all_directions_are_drawn_and_of_one_only_itself() -> None:
    few = np.random.default_rng(5).normal(size=(4, 16))
    assert np.linalg.matrix_rank(ClassLatents.fit(few).root) == 16
    assert np.allclose(ClassLatents.fit(few[:1]).draw(np.ones((1, 16))), few[:1])


# The stage


def test_given_a_finished_bank_it_names_the_real_images_of_each_class_and_what_they_lack(
    bank: Path, dataset: Path
) -> None:
    rows, real = Bank.open(bank).rows, Dataset.open(dataset).rows.set_index("image_id")
    assert len(rows) == 10
    assert (rows["labels"].to_numpy() == real.loc[rows["image_id"], "labels"].to_numpy()).all()
    assert rows["labels"].value_counts().to_dict() == {0: 5, NIH.bit("Effusion"): 5}
    assert (rows["error"] > 0).all()
    assert all(np.square(latent).mean() == pytest.approx(1, abs=1e-3) for latent in rows["latent"])


def test_given_shards_in_another_order_the_bank_is_the_same(
    tmp_path: Path, gan: Path, dataset: Path, bank: Path
) -> None:
    work = bank_stage(tmp_path / "bank", gan, dataset)
    plan = freeze(work)
    for shard in reversed(plan.shards):
        open_pggan.cache_clear()
        run_pack(work, plan, [shard.id])
    finalize(work, plan)
    assert Bank.open(work.folder.path).digest == Bank.open(bank).digest


def test_given_a_finished_bank_when_reported_then_real_images_stand_above_what_their_latents_draw(
    tmp_path: Path, bank: Path, dataset: Path, model: PgGan
) -> None:
    stages = [{"name": "bank", "kind": "invert", "inputs": {}, "findings": ["Effusion", "No Finding"]}]
    run = report_run.empty_run(tmp_path / "run", stages=stages)
    shutil.copytree(bank, run.stage("bank").path)
    (section,) = (one for one in sections(read_run(run.root)) if one.id == "banks")
    (words,) = (block for block in section.blocks if isinstance(block, Text))
    assert "Latents of 10 real training images with Effusion and No Finding, each found by a search" in words.text
    (gallery,) = (block for block in section.blocks if isinstance(block, Gallery))
    assert len(gallery.pictures) == 3
    sheet = cv2.imread(str(next(read_run(run.root).stages[0].data("picture"))), cv2.IMREAD_GRAYSCALE)
    first = Bank.open(bank).rows.iloc[0]
    real, drawn = (cells_of(sheet, (2, 4), row, 1)[6:-6:8, 6:-6:8] for row in (0, 1))
    rows = Dataset.open(dataset).rows
    (row,) = rows[rows["image_id"] == first["image_id"]].itertuples()
    assert (real == Dataset.open(dataset).image(row)).all()
    assert np.abs(drawn - model.draw(torch.tensor(np.array(first["latent"]))[None])[0].numpy()).max() <= 0.51


def test_given_a_finding_that_no_image_has_alone_nothing_is_frozen(tmp_path: Path, gan: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="no training image has Edema and nothing else"):
        freeze(bank_stage(tmp_path / "bank", gan, dataset, findings=("Edema",)))


# Drawing from it


@pytest.mark.parametrize("how", ["gaussian", "each"])
def test_given_a_bank_images_of_a_finding_come_from_its_latents_and_are_made_again_bit_for_bit(
    tmp_path: Path, gan: Path, dataset: Path, bank: Path, model: PgGan, how: str
) -> None:
    drawn = Dataset.open(finish(drawn_stage(tmp_path / "syn", gan, dataset, bank, from_bank=how)))
    (series,) = drawn.info.about["series"]
    assert (series["bank"], series["from_bank"]) == (Bank.open(bank).digest, how)
    assert not (pd.read_csv(drawn.folder / "problems.csv")["kind"] == "unheard").any()
    for row in drawn.rows.itertuples():
        latents = np.stack(Bank.open(bank).of(row.labels)["latent"].tolist())
        if how == "each":
            own = model.draw(torch.from_numpy(latents.astype(np.float32))).numpy()
            assert min(np.abs(one - drawn.image(row)).max() for one in own) <= 0.51
    again = reproduce(drawn, drawn.rows["image_id"].iloc[3], gan, strict=True, bank=bank)
    assert not again.difference.any()
    with pytest.raises(UserError, match="were drawn from the latent bank"):
        reproduce(drawn, drawn.rows["image_id"].iloc[3], gan)


def test_given_labels_that_the_bank_lacks_or_another_model_nothing_is_frozen(
    tmp_path: Path, gan: Path, dataset: Path, bank: Path
) -> None:
    mass = {"counts": {"Mass": 2}}
    with pytest.raises(UserError, match="it has no latents of Mass"):
        freeze(drawn_stage(tmp_path / "mass", gan, dataset, bank, request={**mass, "view": "PA"}))
    pggan.save(pggan.build(INFO, seed=4), tmp_path / "other", {}, scale=2, fade=1.0)
    with pytest.raises(UserError, match="its latents are of another PG-GAN"):
        freeze(drawn_stage(tmp_path / "syn", tmp_path / "other", dataset, bank))
