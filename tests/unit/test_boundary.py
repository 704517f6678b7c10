"""What each field is, stands in one table: what our writers write is declared there, and the page says the same."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from cxr_core.boundary import FIELDS, public, undeclared, withheld
from cxr_core.data.dataset import SCHEMA, Dataset, DatasetInfo
from cxr_core.data.positions.split import BoxedSplit
from cxr_core.data.settings import PromptSettings
from cxr_core.evaluation.metrics import Metrics
from cxr_core.export.model import export_model
from cxr_core.generation.series import MadeSeries
from cxr_core.models.pggan_folder import PgganInfo
from cxr_core.models.training_data import TrainingData
from cxr_core.runs.files import read_json
from cxr_core.runs.provenance import provenance
from tests.conftest import REPOSITORY


def test_every_field_that_our_writers_write_is_declared() -> None:
    written: dict[str, Any] = {
        "index.parquet": SCHEMA.names,
        "dataset.json": [field.name for field in fields(DatasetInfo)],
        "prompts": PromptSettings.model_fields,
        "series": MadeSeries.model_fields,
        "training_data.json": TrainingData.model_fields,
        "boxed_split": BoxedSplit.model_fields,
        "metrics.json": Metrics.model_fields,
        "run.json": provenance(Path("x"), {}),
        "pggan.json": ["format", "about", *(field.name for field in fields(PgganInfo))],
    }
    assert {record for record, names in written.items() if undeclared(record, names)} == set()


def test_every_field_of_a_finished_run_and_of_an_exported_model_is_declared(undisturbed: Path, tmp_path: Path) -> None:
    run = undisturbed / "nano"
    found: list[tuple[str, Any]] = [("run.json", read_json(run / "run.json"))]
    found += [("stage.json", read_json(path)) for path in run.glob("*/stage.json")]
    for path in run.glob("*/dataset.json"):
        about = read_json(path)["about"]
        found += [("dataset.json about", about), *(("series", one) for one in about.get("series", ()))]
        made = [json.loads(text) for text in Dataset.open(path.parent).rows["generation"].unique() if text]
        found += [("generation", one) for one in made] + [("generation gate", one.get("gate", {})) for one in made]
    export_model(run / "diffusion", tmp_path / "out")
    record = read_json(tmp_path / "out" / "model.json")
    found += [("model.json", record), ("run", record["run"]), ("git", record["run"]["git"])]
    found += [("losses", one) for one in record["losses"].values()]
    assert sorted({(name, key) for name, values in found for key in undeclared(name, values)}) == []


def test_what_is_not_declared_stays_inside() -> None:
    assert public("git", {"commit": "a", "remote": "b", "dirty": False}) == {"commit": "a", "dirty": False}


def test_given_few_patients_then_neither_their_count_nor_one_that_tells_it_is_published() -> None:
    assert withheld({"a": 3, "b": 50, "c": 12, "d": 0}) == {"a", "c"}
    assert withheld({"a": 3, "b": 4, "c": 30}) == {"a", "b", "c"}
    assert withheld({"a": 6, "b": 4, "c": 30, "d": 40}) == {"a", "b", "c"}
    assert withheld({"a": 10, "b": 0}) == frozenset()
    assert withheld({"a": 9}) == {"a"}


def test_the_page_of_what_may_leave_has_each_field_as_it_is_declared() -> None:
    page = (REPOSITORY / "docs" / "what-may-leave.md").read_text()
    for record, access in FIELDS.items():
        line = next((line for line in page.splitlines() if line.startswith(f"| `{record}` |")), "")
        cells = [set(re.findall(r"`([^`]+)`", cell)) for cell in line.split("|")[2:5]]
        told = [{name for name, one in access.items() if one == kind} for kind in ("public", "internal", "patient")]
        assert cells == told, record
