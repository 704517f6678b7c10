"""Test patients who were moved for their boxes are in no test of what learnt from them, whichever way it learnt."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import jobs.evaluate
import jobs.train
from cxr_core.data.findings import NIH
from cxr_core.data.positions.split import BoxedSplit
from cxr_core.data.pseudonyms import FILE as PATIENTS
from cxr_core.data.pseudonyms import UNNAMED, VARIABLE, key, key_path, write_names
from cxr_core.errors import UserError
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.generation.bank_folder import Bank, write_bank
from cxr_core.generation.series import MadeSeries, barred_patients
from cxr_core.models import classifier, stable_diffusion
from cxr_core.models.presets import NANO
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.models.training_data import TrainingData, read_training_data
from cxr_core.runs.files import write_json
from cxr_core.runs.stage import Context
from cxr_core.training.judge_settings import ClassifierTrain, LocaliserTrain
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.settings import VaeTrain
from jobs.learnt import learnt_from
from tests.planted import planted_box, planted_row, planted_rows, told_series, write_planted
from tests.training import diffusion_stage, finish, latents_stage, stage

MOVED = tuple(f"train{i:05d}" for i in range(10))


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path_factory.mktemp("home") / "patient.key"))


def learnt(moved: list[str]) -> TrainingData:
    split = BoxedSplit(sha256="5" * 64, num_patients={"train": len(moved)}, moved=tuple(moved))
    return TrainingData.of(pd.DataFrame(planted_rows(60)), NIH, "d" * 64, None, split)


def with_moved(folder: Path, size: int) -> Path:
    """A real Dataset with ten moved patients."""
    rows = planted_rows(40) + planted_rows(8, split="val")
    for row in rows:
        row["boxes"] = [planted_box(row, size)] if row["labels"] else []
    split = BoxedSplit(sha256="5" * 64, num_patients={"train": 10, "val": 0, "test": 2}, moved=MOVED)
    return write_planted(folder, rows, size=size, about={"boxed_split": split.model_dump(mode="json")}).folder


COMMON = {"kind": "train", "name": "t", "inputs": {"dataset": "d"}, "batch_size": 4, "threads": 1}
FEW = {"steps": 2, "learning_rate": 1e-3, "checkpoint_every": 2, "validation_images": 0}
KINDS: dict[str, Any] = {
    "vae": lambda: VaeTrain(model="vae", preset="nano", **COMMON, **FEW),
    "classifier": lambda: ClassifierTrain(model="classifier", preset="small", **COMMON, **FEW),
    "localiser": lambda: LocaliserTrain(model="localiser", **COMMON, **FEW),
    "pggan": lambda: PgganTrain(
        model="pggan", preset="nano", images_per_scale=16, fade_images=12, steps=13, checkpoint_every=13, **COMMON
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_given_moved_patients_then_a_model_of_any_kind_says_that_it_learnt_from_them(kind: str, tmp_path: Path) -> None:
    dataset = with_moved(tmp_path / "real", 16 if kind == "pggan" else NANO.image_size)
    work = stage(tmp_path / "t", jobs.train, KINDS[kind](), {"dataset": dataset})
    (tmp_path / "plan").mkdir()
    jobs.train.freeze(work.context, tmp_path / "plan")
    told = read_training_data(tmp_path / "plan")
    assert told is not None
    assert told.barred == set(MOVED)


def test_given_moved_patients_of_data_base_and_prior_then_a_denoiser_and_what_is_trained_on_it_name_all(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    stable_diffusion.save(stable_diffusion.build(NANO, 1), base)
    write_json(base / TRAINING_DATA, learnt(["of the base"]).model_dump(mode="json"))
    dataset = with_moved(tmp_path / "real", NANO.image_size)
    rows = [planted_row(f"syn-{i:08d}", patient_id="", generation="{}") for i in range(8)]
    series = [MadeSeries.model_validate(one).unnamed() for one in told_series(learnt(["of the prior"]))]
    about = {"series": [one.model_dump(mode="json") for one in series]}
    prior = write_planted(tmp_path / "prior", rows, size=NANO.image_size, synthetic=True, about=about).folder
    write_names(prior, ["of the prior"])
    caches = [finish(latents_stage(tmp_path / f"l{i}", data, base)) for i, data in enumerate((dataset, prior))]
    work = diffusion_stage(tmp_path / "d", caches[0], base, prior=caches[1])
    (tmp_path / "plan").mkdir()
    jobs.train.freeze(work.context, tmp_path / "plan")
    told = read_training_data(tmp_path / "plan")
    assert told is not None
    assert told.barred == {*MOVED, "of the base", "of the prior"}
    for inputs in ({"base": base}, {"base": base, "dataset": dataset}):
        further = learnt_from(inputs)
        assert further is not None
        assert "of the base" in further.barred


def test_given_a_bank_of_moved_patients_then_it_names_them_for_what_is_drawn_from_it(tmp_path: Path) -> None:
    split = BoxedSplit(sha256="5" * 64, num_patients={}, moved=MOVED).model_dump(mode="json")
    write_bank(tmp_path, pd.DataFrame(), {"model": "a", "digest": "b", "boxed_split": split})
    assert Bank.open(tmp_path).boxed_split == split
    one = MadeSeries.model_validate(told_series(None)[0] | {"also_learnt_from": split})
    assert {name for each in one.boxed_splits for name in each.moved} == set(MOVED)
    assert MOVED[0] not in one.unnamed().model_dump_json()


def left_out(folder: Path, names: list[str], *, boxes: bool = True, judge: Path | None = None) -> set[str]:
    """Whom an evaluation leaves out of the tests of a real Dataset whose generator learnt from `names`."""
    rows = planted_rows(20, split="test") + planted_rows(4)
    for row in rows[:10]:
        row["boxes"] = [planted_box(row, 32)] if boxes else []
    made = planted_row("syn-00000000", patient_id="", split="synthetic", generation="{}")
    about = {"series": told_series(learnt(names))}
    inputs = {
        "real": write_planted(folder / "real", rows).folder,
        "synthetic": write_planted(folder / "made", [made], synthetic=True, about=about).folder,
        **({"judge": judge} if judge else {}),
    }
    entry = EvaluateStage(name="e", kind="evaluate", inputs={role: role for role in inputs})
    real = jobs.evaluate._datasets(Context(entry, inputs, 1, folder))["real"]
    return {row["patient_id"] for row in rows if row["split"] == "test"} - set(real.of_split("test")["patient_id"])


def test_given_keyed_names_then_the_key_tells_whom_to_leave_out_and_without_it_all_with_a_box_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = key().name("test00003")
    assert key().name("test00003") == key().name(keyed) == keyed
    assert "00003" not in keyed
    assert left_out(tmp_path / "a", ["test00001"]) == {"test00001"}
    assert left_out(tmp_path / "b", [keyed]) == {"test00003"}
    boxed = {f"test{i:05d}" for i in range(5)}
    assert left_out(tmp_path / "c", [UNNAMED]) == boxed
    monkeypatch.setenv(VARIABLE, str(tmp_path / "another.key"))
    assert left_out(tmp_path / "d", [keyed]) == boxed
    key()
    assert left_out(tmp_path / "e", [keyed]) == boxed
    with pytest.raises(UserError, match="unseen patients"):
        left_out(tmp_path / "f", [keyed], boxes=False)


def test_given_a_judge_that_learnt_from_test_patients_then_it_is_not_tried_on_them(tmp_path: Path) -> None:
    judge = tmp_path / "judge"
    classifier.save(classifier.build("small", 32, ("Mass",), 1), judge, {})
    write_json(judge / TRAINING_DATA, learnt(["test00002"]).model_dump(mode="json"))
    assert left_out(tmp_path / "a", [], judge=judge) == {"test00002"}


def test_given_a_key_that_others_can_read_then_it_is_refused_by_name() -> None:
    key()
    assert key_path().stat().st_mode & 0o777 == 0o600
    key_path().chmod(0o644)
    with pytest.raises(UserError, match=r"patient\.key: .*not yours alone"):
        key()


def test_given_a_synthetic_dataset_then_whom_it_does_not_name_stands_in_the_runs_own_file(tmp_path: Path) -> None:
    series = MadeSeries.model_validate(told_series(learnt(list(MOVED)))[0])
    row = planted_row("syn-00000000", patient_id="", split="synthetic", generation="{}")
    about = {"series": [series.unnamed().model_dump(mode="json")]}
    dataset = write_planted(tmp_path / "made", [row], synthetic=True, about=about)
    write_names(dataset.folder, MOVED)
    assert barred_patients(dataset) == set(MOVED)
    assert MOVED[0] not in (dataset.folder / "dataset.json").read_text()
    (dataset.folder / PATIENTS).unlink()
    assert barred_patients(dataset) == {UNNAMED}
