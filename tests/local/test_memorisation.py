"""Copies that were planted among synthetic images are found, and images of other patients are not called copies."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jobs.evaluate
import jobs.train
from cxr_core.evaluation.memorisation.plants import PLANTS
from cxr_core.evaluation.memorisation.results import MemorisationResult, ReidentificationResult
from cxr_core.evaluation.memorisation.search import Search, SearchedImages
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.purpose import SEARCH, shards_for
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.report.verdicts import copies_words
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context, Estimate
from cxr_core.training.settings import DiffusionTrain
from tests.copied import copies, radiographs, searched, seen, synthetic_row, write_both
from tests.pipeline import cxr
from tests.planted import planted_image, planted_row, planted_rows, write_planted
from tests.vision import small_vit

SETTINGS = Memorisation(percentile=99.5, num_train=100, num_planted=40)


@pytest.fixture(scope="module")
def looked(
    nih_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MemorisationResult, Mapping[str, SearchedImages]]:
    """60 copies of each kind beside all images of test patients who are not among the held-out ones."""
    rows, folder = radiographs(nih_data), tmp_path_factory.mktemp("copies")
    real = [row for row in rows if row["split"] != "spare"]
    honest = [synthetic_row(f"honest-{row['image_id']}", row["pixels"]) for row in rows if row["split"] == "spare"]
    datasets = write_both(folder, real, copies(rows, 60) + honest)
    found = seen(datasets, folder / "looked")
    return searched(found, datasets["real"], folder / "looked", SETTINGS, seed=5), found


def test_given_real_radiographs_then_copies_of_every_kind_are_found_with_few_false_alarms(
    looked: tuple[MemorisationResult, Mapping[str, SearchedImages]],
) -> None:
    result, found = looked
    assert result.pixels.threshold is not None
    search = Search(found["real"])
    scored = search.synthetic(found["synthetic"], np.arange(len(found["synthetic"].rows)))
    ids = found["synthetic"].rows["image_id"].str.partition("-")
    original = found["real"].rows["image_id"].to_numpy()[search.train[scored.best]]
    is_found = pd.Series((scored.scores > result.pixels.threshold.value) & (original == ids[2])).groupby(ids[0]).mean()
    for kind in PLANTS:
        assert is_found[kind] >= 0.95, kind
    is_flagged = scored.scores > result.pixels.threshold.value
    assert is_flagged[ids[0] == "honest"].mean() <= 0.01
    assert (ids[0] == "honest").sum() > 500


def test_given_copies_then_their_share_is_told_with_an_alarm_and_the_search_was_tried_first(
    looked: tuple[MemorisationResult, Mapping[str, SearchedImages]],
) -> None:
    result, _ = looked
    share = result.pixels.share_above
    assert share is not None
    planted = 300 / result.pixels.synthetic.num_images
    assert share.low < planted < share.high
    assert result.pixels.alarm
    assert result.recall >= 0.95
    assert all(pair.flagged and pair.training in pair.synthetic for pair in result.pairs)
    assert result.embeddings[0].alarm


def test_given_a_config_then_the_command_looks_for_copies_and_the_page_shows_the_pairs(tmp_path: Path) -> None:
    real = planted_rows(60) + planted_rows(220, split="test")
    drawn = [dict(row, patient_id="", seed=1, generation="{}") for row in planted_rows(20, split="synthetic")]
    drawn[3]["pixels"] = planted_image(real[10], 64)[:, ::-1]
    datasets = {
        "real": write_planted(tmp_path / "real", real, size=64).folder,
        "synthetic": write_planted(tmp_path / "synthetic", drawn, size=64, synthetic=True).folder,
    }
    config = tmp_path / "alone.yaml"
    config.write_text(f"""\
name: alone
stages:
  - name: study
    kind: evaluate
    threads: 1
    inputs: {{real: {datasets["real"]}, synthetic: {datasets["synthetic"]}}}
    memorisation: {{percentile: 99.5, shard_size: 64, num_planted: 20}}
""")
    for words in (("run", config, "--runs", tmp_path), ("report", tmp_path / "alone")):
        done = cxr(*words)
        assert done.returncode == 0, done.stderr
    result = Metrics.model_validate_json((tmp_path / "alone" / "study" / FILE).read_text()).memorisation
    assert result is not None
    first = result.pairs[0]
    assert (first.synthetic, first.training, first.mirrored, first.flagged) == (
        "synthetic-00003",
        "train-00010",
        True,
        True,
    )
    assert result.picture is not None
    assert (tmp_path / "alone" / "study" / result.picture).is_file()
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "Memorisation and privacy" in page
    assert copies_words(result) in page
    assert "train-00010" in page


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """60 training images, 100 of other patients, and 40 synthetic ones, of which 10 are mirrored copies."""
    folder = tmp_path_factory.mktemp("searched")
    real = planted_rows(60) + planted_rows(100, split="test")
    drawn = [dict(row, patient_id="", seed=1, generation="{}") for row in planted_rows(40, split="synthetic")]
    for i in range(10):
        drawn[3 * i]["pixels"] = planted_image(real[5 * i], 64)[:, ::-1]
    small_vit(folder / "vit")
    write_planted(folder / "real", real, size=64)
    write_planted(folder / "synthetic", drawn, size=64, synthetic=True)
    return {name: folder / name for name in ("real", "synthetic", "vit")}


def study(folder: Path, inputs: Mapping[str, Path], search_shard_size: int) -> Work:
    """Memorisation beside features of a model, in shards of so many images."""
    datasets = {name: inputs[name] for name in ("real", "synthetic")}
    settings = EvaluateStage(
        name="study",
        kind="evaluate",
        inputs=dict.fromkeys(datasets, "x"),
        threads=1,
        extraction={"batch_size": 8, "shard_size": 48},
        fidelity={"features": inputs["vit"], "num_resamples": 20},
        memorisation={"percentile": 99, "num_planted": 20, "shard_size": 64, "search_shard_size": search_shard_size},
    )
    folder.mkdir(parents=True)
    return Work(StageFolder(folder), jobs.evaluate, Context(settings, datasets, 5, folder), {})


def searches(work: Work) -> dict[str, str]:
    plan = work.folder.plan()
    assert plan is not None
    made = [shard.id for shard in shards_for(plan.shards, [SEARCH]) if work.folder.is_done(shard.id)]
    return {shard: work.folder.receipt(shard).digest for shard in made}


@pytest.fixture(scope="module")
def in_order(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Work:
    """All shards one after the other, few images at once."""
    work = study(tmp_path_factory.mktemp("order") / "study", inputs, search_shard_size=16)
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return work


def test_given_one_shard_or_many_then_the_search_finds_the_same_to_the_last_bit(
    in_order: Work, inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole = study(tmp_path / "study", inputs, search_shard_size=8192)
    plan = freeze(whole)
    run_pack(whole, plan, [shard.id for shard in plan.shards])
    finalize(whole, plan)
    assert (len(searches(in_order)), len(searches(whole))) == (15, 4)
    of_many, of_one = (Metrics.model_validate_json((work.folder.path / FILE).read_text()) for work in (in_order, whole))
    assert of_many.memorisation == of_one.memorisation
    assert of_one.memorisation is not None
    assert of_one.memorisation.num_flagged == 10
    assert len(of_one.memorisation.embeddings) == 2


def test_given_searches_that_begin_before_all_other_shards_then_they_find_the_same_and_nothing_is_made_twice(
    in_order: Work, inputs: dict[str, Path], tmp_path: Path
) -> None:
    work = study(tmp_path / "study", inputs, search_shard_size=16)
    plan = freeze(work)
    run_pack(work, plan, ["search-synthetic-00001", "search-held-00004"])
    assert searches(work).items() <= searches(in_order).items()
    run_pack(work, plan, [shard.id for shard in plan.shards])
    assert searches(work) == searches(in_order)
    computed = {
        each.shard: each.counts["computed"] for each in work.folder.receipts() if each.shard.startswith("model-real")
    }
    assert set(computed.values()) == {0}


def test_the_plan_expects_at_least_the_shards_that_are_frozen(in_order: Work) -> None:
    context = in_order.context
    plan = in_order.folder.plan()
    assert plan is not None
    expected = jobs.evaluate.estimate(context.settings, context.inputs)
    assert len(plan.shards) <= expected.num_shards < 1.5 * len(plan.shards)
    assert any("40 compared with all of training" in note for note in expected.notes)


def person(patient: int, visit: int, size: int = 32) -> np.ndarray:
    """A patient's picture on one visit: their own blocks, moved a little, under the visit's own noise."""
    own, now = np.random.default_rng(patient), np.random.default_rng([patient, visit])
    blocks = np.kron(own.normal(0, 1, (8, 8)), np.ones((size // 8, size // 8)))
    moved = np.roll(blocks, now.integers(-1, 2, 2), axis=(0, 1))
    return np.clip(128 + 40 * moved + now.normal(0, 15, moved.shape), 0, 255).astype(np.uint8)


def visits(split: str, patients: range, *, told: bool = True) -> list[dict]:
    """Three images of each patient; not `told`: of three different people, filed under one name."""
    return [
        planted_row(
            f"{split}-{patient:03d}-{visit}",
            patient_id=f"{split}{patient:03d}",
            split=split,
            view="PA" if visit % 2 else "AP",
            pixels=person(patient, visit) if told else person(10_000 + 3 * patient + visit, visit),
        )
        for patient in patients
        for visit in range(3)
    ]


def reidentified(folder: Path, *, told: bool) -> ReidentificationResult:
    """Of 100 synthetic images 30 show training patients on a visit that was never trained on."""
    train = visits("train", range(60), told=told)
    test = visits("test", range(500, 560), told=told)
    drawn = [person(i, 7) for i in range(30)] + [person(5000 + i, 1) for i in range(70)]
    synthetic = [synthetic_row(f"drawn-{i}", pixels) for i, pixels in enumerate(drawn)]
    datasets = {name: dataset.folder for name, dataset in write_both(folder, train + test, synthetic).items()}
    asked = {"steps": 80 if told else 20, "batch_size": 32, "image_size": 32, "false_match_rate": 0.02}
    given = {"percentile": 95, "num_planted": 20, "reidentification": asked}
    settings = EvaluateStage(
        name="study",
        kind="evaluate",
        inputs=dict.fromkeys(datasets, "x"),
        threads=1,
        memorisation=given,
    )
    (folder / "study").mkdir()
    work = Work(StageFolder(folder / "study"), jobs.evaluate, Context(settings, datasets, 5, folder / "study"), {})
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    found = Metrics.model_validate_json((folder / "study" / FILE).read_text()).memorisation
    assert found is not None
    assert found.reidentification is not None
    return found.reidentification


def test_given_images_of_training_patients_then_the_verifier_that_passed_its_trial_counts_them(tmp_path: Path) -> None:
    result = reidentified(tmp_path, told=True)
    assert (result.num_patients, result.num_same, result.num_other) == (60, 60, 60)
    assert result.auroc is not None
    assert result.auroc.low > 0.9
    assert result.refused is None
    assert result.matches is not None
    assert result.matches.share_above is not None
    assert result.true_matches is not None
    assert result.true_matches > 0.6
    assert result.matches.alarm
    assert 0.15 < result.matches.share_above.value < 0.4


def test_given_patients_whose_images_share_nothing_then_the_verifier_is_refused(tmp_path: Path) -> None:
    result = reidentified(tmp_path, told=False)
    assert result.refused is not None
    assert "is below 0.70" in result.refused
    assert result.matches is None


def test_given_latents_that_are_there_then_the_plan_of_a_training_warns(nano_latents: Path) -> None:
    settings = DiffusionTrain(
        name="d", kind="train", model="diffusion", inputs={"latents": "l", "base": "b"}, steps=4, batch_size=2,
        checkpoint_every=2, learning_rate=1e-3,
    )  # fmt: skip
    not_made = Estimate(0, 0, 0, 0)
    assert not _captions(jobs.train.estimate(settings, {"latents": not_made, "base": not_made}))
    (line,) = _captions(jobs.train.estimate(settings, {"latents": nano_latents, "base": not_made}))
    assert "captions are held by at most 5 training patients" in line


def _captions(estimate: Estimate) -> list[str]:
    return [note for note in estimate.notes if "captions" in note]
