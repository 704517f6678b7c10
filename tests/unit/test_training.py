"""What training is a function of: sampling, learning rate, settings, checkpoints, words."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cxr_core.data.latents import LatentCache, Stacked
from cxr_core.data.words import prompt_words
from cxr_core.errors import UserError
from cxr_core.models.base import inspect_base
from cxr_core.models.checkpoints import (
    BUILT_IN,
    Checkpoint,
    final_checkpoint,
    is_kept,
    lock_base,
    read_checkpoints,
    weights_sha256,
    write_checkpoints,
)
from cxr_core.models.geometry import Geometry
from cxr_core.models.presets import PRESETS, SD21_BASE
from cxr_core.models.tokenizer import train_bpe
from cxr_core.training.overfit import Overfit, overfit
from cxr_core.training.sampling import drawn
from cxr_core.training.schedule import learning_rate
from cxr_core.training.settings import DiffusionTrain, LatentsStage, Sampling, VaeTrain

TRAIN = {
    "name": "t",
    "kind": "train",
    "steps": 100,
    "batch_size": 4,
    "checkpoint_every": 10,
    "learning_rate": 1e-3,
}


def vae_settings(**values: object) -> VaeTrain:
    return VaeTrain(**{**TRAIN, "model": "vae", "preset": "nano", "inputs": {"dataset": "d"}, **values})


def test_given_a_rare_finding_its_images_are_repeated_by_the_square_root_of_how_rare_it_is() -> None:
    common, rare = 0b01, 0b10
    labels = np.array([0] * 8000 + [common] * 1600 + [common | rare] * 400)
    rows = drawn(np.arange(10_000), labels, Sampling(repeat_threshold=0.64), seed=5)
    times = np.bincount(rows, minlength=10_000)
    assert set(times[:8000]) == {1}
    assert times[8000:9600].mean() == pytest.approx((0.64 / 0.2) ** 0.5, abs=0.03)
    assert set(times[9600:]) == {4}  # (0.64 / 0.04) ** 0.5, by the rarer of its two findings
    assert rows.tolist() == drawn(np.arange(10_000), labels, Sampling(repeat_threshold=0.64), seed=5).tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_given_tempering_a_combination_of_n_images_has_a_share_that_goes_as_n_to_that_power(power: float) -> None:
    labels = np.repeat([0b00, 0b01, 0b11], [6400, 1600, 400])
    rows = drawn(np.arange(8400), labels, Sampling(frequency_exponent=power), seed=5)
    shown = np.bincount(labels[rows])[[0b00, 0b01, 0b11]]
    assert shown / shown[0] == pytest.approx((np.array([6400, 1600, 400]) / 6400) ** power, rel=0.05)
    assert shown[0] == 6400


def test_given_a_combination_of_one_image_it_is_not_repeated_without_bound() -> None:
    rows = drawn(np.arange(1001), np.array([0] * 1000 + [1]), Sampling(frequency_exponent=0, max_repeats=7), seed=5)
    assert np.bincount(rows).max() == 7


def test_given_a_share_of_placed_images_they_are_repeated_up_to_it_and_never_shown_less() -> None:
    labels, places = np.zeros(1000, int), np.repeat([0, 1, 2], [900, 60, 40])
    rows = drawn(np.arange(1000), labels, Sampling(min_positioned_share=0.5), seed=5, places=places)
    assert (places[rows] > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (places[rows] == 0).sum() == 900
    assert len(drawn(np.arange(1000), labels, Sampling(min_positioned_share=0.05), seed=5, places=places)) == 1000


def test_given_tempering_rare_places_of_a_finding_come_oftener_too() -> None:
    labels, places = np.ones(500, int), np.repeat([1, 2], [400, 100])
    rows = drawn(np.arange(500), labels, Sampling(frequency_exponent=0), seed=5, places=places)
    assert np.bincount(places[rows])[1:].tolist() == [400, 400]


def test_given_two_rules_of_sampling_the_error_names_both() -> None:
    with pytest.raises(ValidationError, match="repeat_threshold and frequency_exponent are two rules"):
        Sampling(repeat_threshold=0.1, frequency_exponent=0.5)


def test_given_three_checkpoints_above_the_lowest_validation_loss_the_alarm_names_its_step() -> None:
    falling = [(100, 0.5), (200, 0.4), (300, 0.3), (400, 0.29)]
    assert overfit(falling) is None
    risen = [*falling, (500, 0.31), (600, 0.32), (700, 0.33)]
    assert overfit(risen) == Overfit(best_step=400, rise=pytest.approx(0.33 / 0.29 - 1))
    assert overfit(risen[:-1]) is None
    assert overfit([*risen[:-2], (600, 0.295), (700, 0.33)]) is None


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", {0: 0.25, 3: 1.0, 4: 1.0, 54: 1.0, 99: 1.0}),
        ("linear", {0: 0.25, 3: 1.0, 4: 1.0, 52: 0.5, 99: 1 / 96}),
        ("cosine", {0: 0.25, 3: 1.0, 4: 1.0, 52: 0.5, 28: (1 + math.cos(math.pi / 4)) / 2}),
    ],
)
def test_given_a_schedule_the_rate_warms_up_and_falls_by_its_formula(schedule: str, values: dict[int, float]) -> None:
    settings = vae_settings(schedule=schedule, warmup_steps=4, learning_rate=1.0)
    assert {step: learning_rate(settings, step) for step in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup_steps": 100}, "must be below steps"),
        ({"keep": {"every": 25}}, "no multiple of checkpoint_every"),
        ({"preset": None}, "either preset"),
        ({"inputs": {"dataset": "d", "base": "b"}}, "either preset"),
        ({"base_sha256": "abc"}, "match pattern"),
    ],
)
def test_given_impossible_training_settings_each_is_named(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        vae_settings(**values)


def test_given_a_latents_shard_that_cuts_a_batch_the_error_proposes_a_size() -> None:
    with pytest.raises(ValidationError, match="take 96"):
        LatentsStage(name="l", kind="latents", inputs={"dataset": "d", "base": "b"}, shard_size=100, batch_size=32)


def test_given_a_diffusion_stage_its_base_is_required() -> None:
    with pytest.raises(ValidationError, match="base"):
        DiffusionTrain(**TRAIN, model="diffusion", inputs={"latents": "l"})


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [(1, None, [95]), (2, None, [90, 95]), (1, 30, [30, 60, 90, 95]), (3, 50, [50, 80, 90, 95])],
)
def test_given_a_keep_rule_the_newest_and_the_multiples_stay(last: int, every: int | None, kept: list[int]) -> None:
    steps = [*range(10, 91, 10), 95]
    assert [step for step in steps if is_kept(step, 95, interval=10, last=last, every=every)] == kept


def test_given_checkpoints_were_written_they_read_back_and_the_last_is_final(tmp_path: Path) -> None:
    first = Checkpoint(5, "00000", None, None, "shards/p0", "shards/m0", 0.5)
    last = Checkpoint(9, "00001", "shards/c1", "ab", "shards/p1", "shards/m1")
    write_checkpoints(tmp_path, [first, last])
    assert read_checkpoints(tmp_path) == [first, last]
    assert final_checkpoint(tmp_path) == tmp_path / "shards/c1"


def test_given_a_folder_that_is_no_model_the_error_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index\.json"):
        final_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"unet/config\.json"):
        Geometry.of(tmp_path)


def weights_folder(folder: Path) -> Path:
    return shutil.copytree(BUILT_IN["tiny_base"], folder)


def test_given_other_files_beside_the_weights_the_digest_is_of_the_weights_alone(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "model")
    before = weights_sha256(folder)
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    assert weights_sha256(folder) == before
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x00\x01")
    assert weights_sha256(folder) != before


def test_given_weights_of_another_digest_than_locked_both_digests_are_named(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "model")
    digest = weights_sha256(folder)
    with pytest.raises(UserError, match=f"sha256 {digest}, but base_sha256 is {'0' * 64}"):
        lock_base(inspect_base(folder), "0" * 64, tmp_path / "base.json")
    assert not (tmp_path / "base.json").exists()
    lock_base(inspect_base(folder), digest, tmp_path / "base.json")
    assert digest in (tmp_path / "base.json").read_text()


def test_given_arrays_behind_one_another_rows_are_found_in_all_of_them() -> None:
    parts = [np.arange(3)[:, None], np.arange(3, 4)[:, None], np.arange(4, 9)[:, None]]
    stacked = Stacked(parts)
    assert len(stacked) == 9
    assert [int(stacked[row][0]) for row in range(9)] == list(range(9))
    assert stacked[np.array([8, 0, 3])].tolist() == [[8], [0], [3]]


def test_given_no_latent_cache_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a latent cache"):
        LatentCache.open(tmp_path)


def test_given_the_words_in_another_order_the_tokenizer_is_the_same() -> None:
    assert train_bpe(reversed(prompt_words())) == train_bpe([*prompt_words(), *prompt_words()])


def test_given_the_presets_their_sizes_are_the_published_ones() -> None:
    assert {name: Geometry.of_preset(preset).image_size for name, preset in PRESETS.items()} == {
        name: preset.image_size for name, preset in PRESETS.items()
    }
    assert Geometry.of_preset(SD21_BASE) == Geometry(512, 64, 4)
