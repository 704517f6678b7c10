"""The parts of the copy check: neighbours, alignment, shares beyond a percentile, and whose images are left out."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from cxr_core.data import neighbours
from cxr_core.data.copies import SIDE, SPECTRUM_WIDTH, align, relief, spectra, thumbnail
from cxr_core.data.neighbours import Standard, Stored, nearest, unit
from cxr_core.errors import UserError
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.memorisation.descriptors import freeze_descriptors
from cxr_core.evaluation.memorisation.plants import PLANTS
from cxr_core.evaluation.memorisation.results import MemorisationResult
from cxr_core.evaluation.memorisation.search import Search
from cxr_core.evaluation.memorisation.searched import training_sample
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.memorisation.shares import images_needed, share_above
from cxr_core.report.verdicts import copies_words
from tests.copied import searched, seen, synthetic_row, write_both
from tests.planted import planted_row


def scene(seed: int, size: int = SIDE) -> np.ndarray:
    """A smooth picture with structure of all sizes: another one for another seed."""
    draw = np.random.default_rng(seed)
    coarse = [np.kron(draw.normal(0, 1, (n, n)), np.ones((size // n, size // n))) for n in (4, 8, 16)]
    return np.clip(128 + 30 * sum(coarse), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    return unit(draw.normal(size=(300, 24))), unit(draw.normal(size=(5000, 24)))


@pytest.mark.parametrize("block", [7, 1000, 5000])
def test_given_any_blocks_then_neighbours_are_those_of_faiss_over_the_whole(
    vectors: tuple[np.ndarray, np.ndarray], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, references = vectors
    monkeypatch.setattr(neighbours, "_QUERIES", 128)
    similarity, places = nearest(queries, lambda: (references[i : i + block] for i in range(0, 5000, block)), 4)
    whole = faiss.IndexFlatIP(24)
    whole.add(references)
    expected, expected_places = whole.search(queries, 4)
    assert (places == expected_places).all()
    np.testing.assert_allclose(similarity, expected, rtol=1e-6)


@pytest.mark.parametrize("num", [1, 19, 250])
def test_given_other_queries_beside_it_then_a_query_finds_the_same_to_the_last_bit(
    vectors: tuple[np.ndarray, np.ndarray], num: int
) -> None:
    queries, references = vectors
    whole = nearest(queries, lambda: [references], 4)
    parts = [nearest(queries[i : i + num], lambda: [references], 4) for i in range(0, len(queries), num)]
    for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
        assert (np.concatenate(found) == expected).all()


def test_given_equal_references_then_the_first_of_them_is_found(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    queries, references = vectors
    similarity, places = nearest(queries, lambda: [references[:100], references[:100]], 6)
    assert (places[:, 1::2] == places[:, ::2] + 100).all()
    assert (similarity[:, 1::2] == similarity[:, ::2]).all()


def test_given_fewer_references_than_asked_for_then_the_rest_is_nothing(
    vectors: tuple[np.ndarray, np.ndarray],
) -> None:
    similarity, places = nearest(vectors[0][:2], lambda: [vectors[1][:3]], 5)
    assert (places[:, 3:] == -1).all()
    assert np.isneginf(similarity[:, 3:]).all()
    assert sorted(places[0, :3]) == [0, 1, 2]


def test_given_rows_in_several_files_then_any_of_them_are_taken_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    for i, part in enumerate(np.split(rows, [5, 12])):
        np.save(tmp_path / f"{i}.npy", part)
    stored = Stored([tmp_path / f"{i}.npy" for i in range(3)])
    places = np.array([19, 0, 12, 4, 5, 19])
    assert len(stored) == 20
    assert (stored.take(places) == rows[places]).all()
    assert stored.take(np.array([], int)).shape == (0, 3)


def test_given_features_that_point_one_way_then_in_standard_deviations_they_point_apart() -> None:
    draw = np.random.default_rng(1)
    features = 100 + draw.normal(size=(400, 16)) * np.linspace(0.1, 2, 16)
    features[:, 3] = 7.0  # tells nothing
    assert (unit(features) @ unit(features).T).min() > 0.99
    scaled = Standard([features[:150], features[150:]])(features)
    np.testing.assert_allclose(scaled, unit((features - features.mean(0)) / (features.std(0) + 1e-12)), atol=1e-4)
    assert np.abs(scaled @ scaled.T - np.eye(400)).mean() < 0.3


@pytest.mark.parametrize("kind", PLANTS)
def test_given_a_copy_then_its_pixels_align_and_those_of_another_image_do_not(kind: str) -> None:
    image, draw = scene(1), np.random.default_rng(2)
    found = align(relief(PLANTS[kind](image, draw)), relief(image))
    assert found.score > 0.95
    assert found.mirrored == (kind == "mirrored")
    assert align(relief(scene(3)), relief(image)).score < 0.6


def test_given_a_shifted_copy_then_the_alignment_says_by_how_much_to_move_it_back() -> None:
    image = scene(4)
    found = align(relief(np.roll(image, (3, -2), axis=(0, 1))), relief(image))
    assert (found.right, found.down, found.mirrored) == (2, -3, False)


def test_given_an_image_without_structure_then_it_is_a_copy_of_nothing() -> None:
    flat = np.full((SIDE, SIDE), 90, np.uint8)
    assert align(relief(flat), relief(flat)).score == 0
    assert np.isfinite(spectra(flat[None])).all()


def test_a_mirror_image_and_a_shifted_one_have_nearly_the_spectrum_of_the_image() -> None:
    images = [scene(5), scene(5)[:, ::-1], np.roll(scene(5), 4, axis=1), scene(6)]
    found = spectra(np.stack([thumbnail(image) for image in images]))
    assert found.shape == (4, SPECTRUM_WIDTH)
    same, shifted, other = found[1:] @ found[0]
    assert same > 0.99
    assert shifted > other + 0.1


def test_the_share_beyond_a_percentile_is_counted_and_none_of_many_is_no_proof_of_nothing() -> None:
    draw = np.random.default_rng(0)
    held_out, patients = draw.normal(size=2000), np.repeat(np.arange(1000), 2)
    threshold, num_above, share = share_above(held_out[:500] + 10, held_out, patients, 99.0, 1)
    assert threshold.value == np.sort(held_out)[1979]
    assert threshold.low <= threshold.value <= threshold.high
    assert (num_above, share.value, share.high) == (500, 1.0, 1.0)
    _, none, share = share_above(held_out[:500] - 10, held_out, patients, 99.0, 1)
    assert (none, share.value, share.low) == (0, 0.0, 0.0)
    assert 0.002 < share.high < 0.012


def test_images_that_are_no_copies_are_beyond_the_percentile_as_often_as_real_ones() -> None:
    covered = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        share = share_above(draw.normal(size=400), draw.normal(size=300), np.arange(300), 95.0, seed)[2]
        covered.append(share.low <= 0.05 <= share.high)
    assert np.mean(covered) >= 0.85


def test_a_percentile_needs_images_beyond_it() -> None:
    assert (images_needed(99.9), images_needed(99.0)) == (1000, 100)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """40 training patients of two images each, the first image of the first patient filed under the last one too."""
    pictures = [scene(i) for i in range(80)]
    pictures[-1] = pictures[0]
    train = [
        planted_row(f"train-{i:03d}", patient_id=f"p{i // 2:02d}", split="train", pixels=pixels)
        for i, pixels in enumerate(pictures)
    ]
    test = [planted_row(f"test-{i}", patient_id=f"t{i}", split="test", pixels=scene(100 + i)) for i in range(9)]
    synthetic = [synthetic_row("copy", np.ascontiguousarray(scene(7)[:, ::-1])), synthetic_row("new", scene(200))]
    folder = tmp_path_factory.mktemp("few")
    datasets = write_both(folder, train + test, synthetic)
    looked = folder / "looked"
    return {"datasets": datasets, "seen": seen(datasets, looked, shard_size=30), "folder": looked}


def found_in(few: dict, **settings: Any) -> MemorisationResult:
    return searched(few["seen"], few["datasets"]["real"], few["folder"], Memorisation(**settings), seed=1)


def test_given_train_to_train_then_the_own_patient_and_a_second_name_of_an_image_are_left_out(few: dict) -> None:
    real = few["seen"]["real"]
    search = Search(real)
    places = training_sample(real.rows, 80, seed=1)
    found = search.others(places)
    rows = real.rows.iloc[places]
    own = rows["patient_id"].to_numpy(str)
    assert (search.patients[found.candidates[found.candidates >= 0]] != np.repeat(own, 5)).all()
    assert found.left_out.sum() == 2  # the image, seen from each of its two patients
    assert found.scores.max() < 0.98
    assert max(found.similarity["spectra"]) < 0.999


def test_given_a_copy_then_the_pair_is_named_with_what_was_done_to_it(few: dict) -> None:
    result = found_in(few, percentile=50, num_planted=20)
    first = result.pairs[0]
    assert (first.synthetic, first.training, first.patient, first.mirrored) == ("copy", "train-007", "p03", True)
    assert first.flagged
    assert result.num_train == 80
    assert {each.kind for each in result.planted} == set(PLANTS)


def test_given_too_few_held_out_images_then_no_share_is_told(few: dict) -> None:
    result = found_in(few)
    assert result.pixels.not_computed == "n = 9 held-out images, 1,000 are needed"
    assert result.pixels.share_above is None
    assert result.num_flagged is None
    assert not any(pair.flagged for pair in result.pairs)
    assert "n = 9 held-out images" in copies_words(result)


def captioned(num_rare: int, *, copied: bool) -> tuple[list[dict], list[dict]]:
    """Rare captions of one training image each and a common one of 30; four draws of each, copies or images anew."""
    rare = [1 << i for i in range(num_rare)]
    train = [
        planted_row(f"train-{i:03d}", labels=labels, pixels=scene(i))
        for i, labels in enumerate([*rare, *[1 << 13] * 30])
    ]
    drawn = []
    for i, labels in enumerate([*rare, 1 << 13]):
        for k in range(4):
            pixels = scene(i) if copied and i < num_rare and k == 2 else scene(1000 + 4 * i + k)
            drawn.append(synthetic_row(f"drawn-{i}-{k}", pixels) | {"labels": labels})
    return train, drawn


@pytest.mark.parametrize("copied", [True, False])
def test_given_rare_captions_then_images_that_they_give_away_are_told_from_those_of_a_model_that_learnt_none(
    copied: bool, tmp_path: Path
) -> None:
    train, drawn = captioned(8, copied=copied)
    test = [planted_row(f"test-{i}", split="test", pixels=scene(500 + i)) for i in range(30)]
    datasets = write_both(tmp_path, train + test, drawn)
    settings = Memorisation(percentile=95, num_planted=20, targeted={"max_images": 5})
    found = seen(datasets, tmp_path / "looked")
    result = searched(found, datasets["real"], tmp_path / "looked", settings, seed=1).targeted
    assert result is not None
    assert (result.num_rare, result.num_asked, result.num_images, result.num_matched) == (8, 8, 32, 1)
    assert result.difference is not None
    assert result.difference.low <= result.difference.value <= result.difference.high
    assert (result.difference.low > 0.2) == copied
    assert (result.extracted == 8) == copied


def test_given_no_synthetic_image_of_a_rare_caption_then_nothing_is_told_of_them(few: dict) -> None:
    result = found_in(few, percentile=50, num_planted=20, targeted={}).targeted
    assert result is not None
    assert result.not_computed == "n = 0 rare captions with synthetic images of them and of a match, 5 are needed"


def test_given_a_dataset_without_training_images_then_it_is_refused(few: dict, tmp_path: Path) -> None:
    synthetic = few["datasets"]["synthetic"]
    with pytest.raises(UserError, match="no training images: nothing of which an image could be a copy"):
        freeze_descriptors({"real": synthetic.rows, "synthetic": synthetic.rows}, HELD_OUT, 64, tmp_path)
