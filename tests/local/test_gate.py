"""The gate of the generate stage: a small trained classifier, a real sampler, images drawn again and made again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH, NO_FINDING
from cxr_core.errors import UserError
from cxr_core.generation.acceptance import Acceptance
from cxr_core.generation.first_draws import is_sampled, open_first_draws
from cxr_core.generation.gate import Bound, Gatekeeper, Rule, calibrate, distances, open_judge, scores_of, thumbnails
from cxr_core.generation.originals import Originals, measure_originals
from cxr_core.generation.reproduce import reproduce
from cxr_core.generation.settings import Gate
from cxr_core.models import pggan
from cxr_core.models.pggan_folder import PgganInfo
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from tests.local.test_generate import finish, nano, saved, stage
from tests.local.test_judged import real_rows, train_judge
from tests.planted import planted_image, planted_row, planted_rows, write_planted

EFFUSION = NIH.bit("Effusion")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("planted") / "real", real_rows()).folder


@pytest.fixture(scope="module")
def judge(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxr_core.models.checkpoints import final_checkpoint

    return final_checkpoint(train_judge(tmp_path_factory.mktemp("judge") / "judge", real), "classifier")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model", nano())


@pytest.fixture(scope="module")
def rule(judge: Path, real: Path) -> Rule:
    return bounds(judge, Dataset.open(real))


def bounds(judge: Path, real: Dataset) -> Rule:
    return calibrate(judge, real, Originals(real, measure_originals(real, 1)), Gate(), threads=1)


def gated(folder: Path, model: Path, real: Path, judge: Path, **values: Any) -> Work:
    """A generate stage of 22 images with a gate, ready to be worked on."""
    values = {"request": {"counts": {"Effusion": 12, "No Finding": 10}}, "gate": {"max_draws": 3}, **values}
    inputs = {"model": "m", "like": "r", "gate": "g"}
    work = stage(folder, model, real, inputs=inputs, **values)
    work.context.inputs["gate"] = judge  # type: ignore[index]
    return work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path, real: Path, judge: Path) -> Dataset:
    return finish(gated(tmp_path_factory.mktemp("gated") / "syn", model, real, judge))


def looks_of(dataset: Dataset) -> pd.DataFrame:
    parts = [pq.read_table(path).to_pandas() for path in sorted((dataset.folder / "shards").glob("*.parquet"))]
    return pd.concat([part for part in parts if "reasons" in part], ignore_index=True)


def test_given_real_validation_images_bounds_reject_the_share_of_them_that_was_asked_for(
    judge: Path, real: Path, rule: Rule
) -> None:
    val = Dataset.open(real).of_split("val")
    scores = scores_of(open_judge(judge)[0], Dataset.open(real).images(val))[:, 0]
    bound = rule.bounds["Effusion"]
    assert bound.score is not None
    assert bound.auroc is not None
    assert bound.auroc > 0.9
    has = (val["labels"] == EFFUSION).to_numpy()
    assert (scores[has] < bound.score).mean() == pytest.approx(0.1)
    assert rule.bounds[NO_FINDING].score is not None
    assert 0 < rule.min_distance < 1
    assert rule.min_spread > 1


def keeper_of(judge: Path, rule: Rule, real: Path) -> Gatekeeper:
    source = Dataset.open(real)
    return Gatekeeper(open_judge(judge)[0], rule, NIH, Originals(source, measure_originals(source, 1)))


def test_given_copies_of_training_images_the_gate_names_the_image_that_each_repeats(
    judge: Path, rule: Rule, real: Path
) -> None:
    source = Dataset.open(real)
    rows = source.of_split("train").head(20)
    images = source.images(rows)
    noise = np.random.default_rng(0).normal(0, 2, images.shape)
    copies = [images, images[:, :, ::-1], np.clip(images + noise, 0, 255).astype(np.uint8)]
    for shown in copies:
        verdicts = keeper_of(judge, rule, real).examine(np.ascontiguousarray(shown), rows["labels"].tolist())
        told = [dict(verdict.reasons).get("training_copy", "") for verdict in verdicts]
        assert np.mean([image_id in text for image_id, text in zip(rows["image_id"], told, strict=True)]) >= 0.95
    held_out = source.of_split("val")
    verdicts = keeper_of(judge, rule, real).examine(source.images(held_out), held_out["labels"].tolist())
    assert not any("training_copy" in dict(verdict.reasons) for verdict in verdicts)


def test_given_images_of_each_kind_the_gate_says_what_is_wrong_with_each(judge: Path, rule: Rule, real: Path) -> None:
    keeper = keeper_of(judge, rule, real)
    sick, well = (
        np.stack([planted_image(planted_row(f"{name}{i}", labels=labels), 32) for i in range(20)])
        for name, labels in (("sick", EFFUSION), ("well", 0))
    )
    passed = [verdict.passed for verdict in keeper.examine(sick, [EFFUSION] * 20)]
    assert np.mean(passed) > 0.7
    assert np.mean([verdict.passed for verdict in keeper.examine(well, [0] * 20)]) > 0.7
    others = [planted_image(planted_row(f"other{i}"), 32) for i in range(10)]
    disobedient = keeper.examine(np.stack(others), [EFFUSION] * 10)
    assert all("finding_not_seen" in dict(verdict.reasons) for verdict in disobedient)
    flat = np.full((1, 32, 32), 90, np.uint8)
    assert "flat" in dict(keeper.examine(flat, [0])[0].reasons)
    again = sick[passed.index(True)][None]
    twice = [dict(verdict.reasons) for verdict in keeper.examine(again, [EFFUSION])]
    assert "near_duplicate" in twice[0]


def test_given_equal_pictures_of_other_brightness_their_distance_is_nothing() -> None:
    image = planted_image(planted_row("a"), 32)
    brighter = (image.astype(int) + 40).astype(np.uint8)
    other = planted_image(planted_row("b"), 32)
    apart = distances(thumbnails([image]), thumbnails([image, brighter, other]))[0]
    assert apart[:2] == pytest.approx([0, 0], abs=0.05)
    assert apart[2] > 0.5


def test_given_a_gate_each_image_is_there_once_with_its_draw_and_its_verdict(made: Dataset) -> None:
    assert list(made.verify()) == []
    assert made.info.num_images == 22
    looks = looks_of(made)
    for row in made.rows.itertuples():
        told = json.loads(row.generation)
        mine = looks[looks["image_id"] == row.image_id].sort_values("draw")
        assert told["gate"]["draws"] == len(mine)
        assert mine["draw"].tolist() == list(range(len(mine)))
        assert mine[mine["stored"]]["draw"].tolist() == [told["draw"]]
        assert told["gate"]["passed"] == (not len(mine[mine["stored"]]["reasons"].iloc[0]))
        assert told["gate"]["passed"] or len(mine) == 3
    draws = [json.loads(text)["draw"] for text in made.rows["generation"]]
    assert sum(draw > 0 for draw in draws) > 0


def test_given_a_gate_a_sample_of_first_draws_is_a_dataset_of_its_own(made: Dataset) -> None:
    first = open_first_draws(made)
    assert first is not None
    assert list(first.verify()) == []
    assert first.rows["image_id"].tolist() == made.rows["image_id"].tolist()  # all, since fewer are made than are kept
    looks = looks_of(made)
    told = [json.loads(text) for text in first.rows["generation"]]
    at_first = looks[looks["draw"] == 0]
    passed = dict(zip(at_first["image_id"], at_first["reasons"].map(len) == 0, strict=True))
    assert [one["gate"]["passed"] for one in told] == [passed[image_id] for image_id in first.rows["image_id"]]
    assert {one["draw"] for one in told} == {0}
    assert sum(is_sampled(f"syn-{i:08d}", 50, 1000) for i in range(1000)) == pytest.approx(50, abs=25)


def test_given_rejected_draws_each_is_named_with_its_reason_and_what_was_done(made: Dataset) -> None:
    problems = pd.read_csv(made.folder / "problems.csv")
    looks = looks_of(made)
    assert len(problems) == looks["reasons"].map(len).sum() > 0
    assert set(problems["kind"]) <= {"finding_not_seen", "flat", "near_duplicate"}
    assert problems["action"].str.match(r"drawn again|draw \d kept, the best of 3").all()


def test_given_a_gate_the_dataset_says_how_many_passed_of_each_finding(made: Dataset) -> None:
    accepted = Acceptance.model_validate(made.info.about["gate"]["acceptance"])
    looks = looks_of(made)
    assert (accepted.images, accepted.draws) == (22, len(looks))
    assert accepted.first == int((looks["draw"].eq(0) & looks["reasons"].map(len).eq(0)).sum())
    effusion = accepted.findings["Effusion"]
    assert (effusion.asked, accepted.findings[NO_FINDING].asked) == (12, 10)
    assert effusion.passed == sum(
        json.loads(row.generation)["gate"]["passed"] for row in made.rows.itertuples() if row.labels
    )
    assert effusion.auroc_first is not None
    assert effusion.auroc_stored is not None
    assert effusion.auroc_stored >= effusion.auroc_first
    assert sum(accepted.reasons.values()) == looks["reasons"].map(len).sum()


def test_given_an_image_that_passed_at_once_it_is_the_image_without_a_gate(
    made: Dataset, tmp_path: Path, model: Path, real: Path
) -> None:
    plain = finish(stage(tmp_path / "syn", model, real, request={"counts": {"Effusion": 12, "No Finding": 10}}))
    before = plain.rows.set_index("image_id")["pixel_sha256"]
    for row in made.rows.itertuples():
        same = before[row.image_id] == row.pixel_sha256
        assert same == (json.loads(row.generation)["draw"] == 0)


def test_given_any_gated_image_it_is_made_again_bit_for_bit(made: Dataset, model: Path) -> None:
    draws = made.rows["generation"].map(lambda text: json.loads(text)["draw"])
    for draw in sorted(draws.unique()):
        for image_id in made.rows["image_id"][draws == draw].iloc[[0, -1]]:
            assert not reproduce(made, image_id, model, strict=True).difference.any()
            assert reproduce(made, image_id, model).difference.max() <= 1


def test_given_a_pg_gan_its_images_go_through_the_gate_and_are_made_again_bit_for_bit(
    tmp_path: Path, real: Path, judge: Path
) -> None:
    info = PgganInfo(latent_width=16, widths=(16, 16, 8, 8), channels=1, scale=3)
    pggan.save(pggan.build(info, seed=2), tmp_path / "gan", {}, scale=3, fade=1.0)
    drawn = finish(gated(tmp_path / "syn", tmp_path / "gan", real, judge))
    told = [json.loads(text) for text in drawn.rows["generation"]]
    assert max(one["gate"]["draws"] for one in told) == 3
    assert len(set(drawn.rows["pixel_sha256"])) == 22
    for image_id in drawn.rows["image_id"].iloc[[0, -1]]:
        assert not reproduce(drawn, image_id, tmp_path / "gan", strict=True).difference.any()


def test_given_a_lost_shard_it_is_drawn_again_with_the_same_digest(
    made: Dataset, tmp_path: Path, model: Path, real: Path, judge: Path
) -> None:
    work = gated(tmp_path / "syn", model, real, judge)
    plan = freeze(work)
    for shard in reversed(plan.shards):
        run_pack(work, plan, [shard.id])
    finalize(work, plan)
    assert Dataset.open(work.folder.path).info.digest == made.info.digest


def test_given_another_classifier_than_planned_shards_are_refused(
    tmp_path: Path, model: Path, real: Path, judge: Path
) -> None:
    from cxr_core.models.classifier import build, save

    other = tmp_path / "other"
    save(build("small", 32, ("Effusion",), seed=1), other, {})
    work = gated(tmp_path / "syn", model, real, judge)
    plan = freeze(work)
    work.context.inputs["gate"] = other  # type: ignore[index]
    with pytest.raises(UserError, match="the gate's classifier changed since the plan"):
        run_pack(work, plan, [plan.shards[0].id])


def test_given_too_few_validation_images_a_gate_is_refused(tmp_path: Path, judge: Path) -> None:
    few = write_planted(tmp_path / "few", [*planted_rows(10), *planted_rows(4, split="val")])
    with pytest.raises(UserError, match="there are 4 of 20"):
        bounds(judge, few)


def test_given_a_classifier_that_cannot_tell_a_finding_it_is_not_gated_and_the_rule_says_why(
    tmp_path: Path, judge: Path
) -> None:
    deaf = write_planted(tmp_path / "deaf", [r for r in real_rows(shuffled=True) if r["split"] == "val"])
    bound: Bound = bounds(judge, deaf).bounds["Effusion"]
    assert bound.score is None
    assert "below 0.70" in str(bound.refused)
