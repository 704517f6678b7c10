"""The ready config of the study's table, on all rows of ChestX-ray14: whether there are the images that it asks for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.chestxray14 import read_chestxray14
from cxr_core.data.dataset import SCHEMA, Dataset, ShardInfo, write_index
from cxr_core.data.findings import NIH
from cxr_core.data.settings import ChestXray14Data
from cxr_core.data.splits import carve_validation
from cxr_core.evaluation.benefit.cohort import choose_benefit
from cxr_core.evaluation.cohort import Cohort, choose_cohort
from cxr_core.evaluation.intervals import view_rule
from cxr_core.evaluation.settings import EvaluateStage, Utility
from cxr_core.generation.requests import allocate, exact_list
from cxr_core.generation.settings import Request
from cxr_core.models.scores import accuracy
from jobs.config import load_config
from jobs.launch import estimates


def dataset_of(folder: Path, rows: pd.DataFrame) -> Dataset:
    """A Dataset without its images: cohorts are chosen by the index alone."""
    folder.mkdir()
    given = {"shard": "shards/absent.tar", "width": 512, "height": 512, "length": 1}
    nothing = {"string": "", "int64": 0, "double": None}
    absent = {field.name: nothing[str(field.type)] for field in SCHEMA if field.name not in {"boxes", *rows}}
    rows = rows.assign(**absent | given, boxes=[[]] * len(rows))
    shard = ShardInfo(name=given["shard"], sha256="0" * 64, bytes=1, num_images=len(rows))
    synthetic = bool((rows["split"] == "synthetic").all())
    write_index(folder, rows[SCHEMA.names], [shard], findings=NIH, size=512, synthetic=synthetic, about={})
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def datasets(nih_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """ChestX-ray14 as preprocessed, and 100,000 images as generated like its training images."""
    folder = tmp_path_factory.mktemp("table")
    rows = read_chestxray14(ChestXray14Data(kind="chestxray14", metadata=nih_data / "metadata")).rows
    real = rows[["image_id", "patient_id", "view", "labels"]].assign(split=carve_validation(rows, 0.1))
    cells = allocate(Request(like="train", num_images=100_000), real, NIH)
    asked = exact_list(cells, lambda *_: "", seed=1).select(["image_id", "view", "labels"]).to_pandas()
    made = asked.assign(patient_id="", split="synthetic")
    return {"real": dataset_of(folder / "real", real), "synthetic": dataset_of(folder / "synthetic", made)}


def patients(cohort: Cohort, use: str) -> set[str]:
    """Patients of the real images of an arm, or of "test"."""
    images = cohort.use(use)
    return set(images.loc[images["source"] == "real", "patient_id"])


def view_alone(cohort: Cohort) -> float:
    """Accuracy of the rule that knows the view of a test image and the training images of the real arm."""
    train, test = cohort.use("real"), cohort.use("test")
    scores = view_rule(train["view"].to_numpy(), train["label"].to_numpy(), test["view"].to_numpy())
    return float(accuracy(scores, test["label"].to_numpy(), np.ones(len(test))))


@pytest.fixture(scope="module")
def cohorts(datasets: dict[str, Dataset]) -> list[tuple[Utility, Cohort]]:
    """Each experiment of the ready config with its images."""
    with pytest.MonkeyPatch.context() as patch:
        for name, dataset in datasets.items():
            patch.setenv(f"CXR_{name.upper()}", str(dataset.folder))
        study = load_config("study_table").stage("study")
    assert isinstance(study, EvaluateStage)
    return [(entry, choose_cohort(entry, **datasets, seed=0)) for entry in study.utility]


def test_given_the_whole_dataset_every_arm_of_the_studys_table_can_be_run(
    cohorts: list[tuple[Utility, Cohort]],
) -> None:
    sizes = []
    for entry, cohort in cohorts:
        assert cohort.not_run == {}
        mixed = cohort.use("mixed").value_counts(["source", "label"])
        assert mixed.nunique() == 1
        sizes.append((entry.protocol, int(mixed.iloc[0]), len(cohort.use("real")), len(cohort.use("test"))))
    assert sizes == [("as_written", 250, 1000, 300), ("as_written", 500, 2000, 600), ("repaired", 250, 1000, 300)]


def test_given_the_protocol_as_written_the_view_alone_tells_what_the_studys_classifier_told(
    cohorts: list[tuple[Utility, Cohort]],
) -> None:
    in_all, per_class, repaired = (cohort for _, cohort in cohorts)
    assert [round(view_alone(cohort), 2) for cohort in (in_all, per_class, repaired)] == [0.86, 0.81, 0.5]
    shared = [len(patients(cohort, "test") & patients(cohort, "real")) for cohort in (in_all, per_class, repaired)]
    assert shared == [2, 2, 0]
    assert [len(patients(cohort, "test")) for cohort in (in_all, per_class)] == [144, 281]


def test_given_the_whole_dataset_every_arm_of_the_ready_benefit_experiment_can_be_run(
    datasets: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, dataset in datasets.items():
        monkeypatch.setenv(f"CXR_{name.upper()}", str(dataset.folder))
    config = load_config("benefit")
    study = config.stage("study")
    assert isinstance(study, EvaluateStage)
    (entry,) = study.benefit
    (estimate,) = estimates(config).values()
    assert estimate.num_shards == len(entry.arm_names) * len(entry.seeds) + 1
    cohort = choose_benefit(entry, **datasets, seed=0)
    assert cohort.not_run == {}
    sizes = cohort.images.value_counts(["use", "source"])
    train = int((datasets["real"].rows["split"] == "train").sum())
    assert sizes["real", "real"] == sizes["add-100", "synthetic"] == train
    assert sizes["replace-50", "real"] + sizes["replace-50", "synthetic"] == train
    assert all(num < 0.12 * train for num in cohort.num_unlike.values())
