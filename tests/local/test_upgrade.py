"""Runs that an older version made: read, checked, reported, exported and finished by the code of today."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.runs.run import Run
from jobs.config import RunConfig
from tests.pipeline import cxr
from tests.ranks import weights
from tests.training import losses

OLD = Path(__file__).parents[1] / "fixtures" / "cfcd391"
CLASSES = {
    "cxr_core__evaluation__sweep__settings__Sweep": "EvaluateSweep",
    "cxr_core__generation__settings__Sweep": "GenerateSweep",
}
"""Classes of settings in keys.json that have another name now."""


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/small`, a whole run of cfcd391, and `half/small`, the same killed in `diffusion`."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD / "runs.tar.xz") as archive:
        archive.extractall(folder)  # ours; `filter=` came with Python 3.11.4
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The config of the runs, with the names that its keys have now: what a user makes of it."""
    text = (OLD / "small.yaml").read_text()
    for old, new in (("images: 60", "num_images: 60"), ("steps: 2}", "denoising_steps: 2}")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    before, generate = text.split("kind: generate")
    path = tmp_path / "small.yaml"
    path.write_text(f"{before}kind: generate{generate.replace('steps: 2', 'denoising_steps: 2')}")
    return path


def digests(root: Path) -> dict[str, str]:
    run = Run.open(root)
    facts = {stage["name"]: run.stage(stage["name"]).facts() for stage in run.config["stages"]}
    return {name: found["digest"] for name, found in facts.items() if found}


def test_given_a_whole_run_of_before_then_it_is_shown_checked_reported_and_nothing_is_made_again(
    old_runs: Path, small: Path
) -> None:
    root = old_runs / "runs" / "small"
    for words in (("status", root), ("verify", root), ("report", root)):
        done = cxr(*words)
        assert done.returncode == 0, done.stderr
    for config in (root / "config.yaml", small):
        again = cxr("run", config, "--runs", root.parent)
        assert again.returncode == 0, again.stderr
        assert "all 14 shards of 6 stages were there" in again.stdout
    assert digests(root) == json.loads((OLD / "digests.json").read_text())


def test_given_a_config_of_before_then_each_renamed_key_is_named_with_its_line_and_its_name_of_now(
    old_runs: Path,
) -> None:
    refused = cxr("run", OLD / "small.yaml", "--runs", old_runs / "runs")
    assert refused.returncode == 2
    for line in (
        "small.yaml:7: stages.real.data.images: this key is now called num_images",
        "small.yaml:38: stages.diffusion.preview.steps: this key is now called denoising_steps",
        "small.yaml:44: stages.synthetic.steps: this key is now called denoising_steps",
    ):
        assert line in refused.stderr


@pytest.mark.parametrize(("stage", "form"), [("real", "imagefolder"), ("synthetic", "nih")])
def test_given_a_dataset_of_before_then_it_is_whole_and_can_be_exported(
    old_runs: Path, tmp_path: Path, stage: str, form: str
) -> None:
    folder = old_runs / "runs" / "small" / stage
    assert list(Dataset.open(folder).verify()) == []
    done = cxr("data", "export", folder, tmp_path / "out", "--as", form, *(["--internal"] if stage == "real" else []))
    assert done.returncode == 0, done.stderr


def test_given_a_killed_run_of_before_then_it_goes_on_to_the_same_weights_once_the_code_is_accepted(
    old_runs: Path, small: Path
) -> None:
    root = old_runs / "half" / "small"
    words = ("run", small, "--runs", root.parent)
    refused = cxr(*words)
    assert refused.returncode == 2
    for word in ("stage 'diffusion'", "not recorded (commit cfcd3919777c)", "--accept-code"):
        assert word in refused.stderr
    done = cxr(*words, "--accept-code")
    assert done.returncode == 0, done.stderr
    # What was made before is as it was. What is made now depends, in its last digits, on the kind of processor: the
    # fixture's had AVX-512. Elsewhere losses, and weights, are those of the run that was never killed by value.
    now, before = digests(root), json.loads((OLD / "digests.json").read_text())
    kept = before if "avx512f" in Path("/proc/cpuinfo").read_text() else ("real", "vae", "latents")
    assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
    whole = old_runs / "runs" / "small"
    assert losses(root / "diffusion") == pytest.approx(losses(whole / "diffusion"), rel=1e-4)
    trained = weights(root / "diffusion")
    for name, value in weights(whole / "diffusion").items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=4e-3)  # 4 steps of at most the learning rate
    made, drawn = (Dataset.open(folder / "synthetic").rows for folder in (root, whole))
    for column in ("image_id", "prompt", "labels", "seed"):
        assert made[column].tolist() == drawn[column].tolist()
    diffusion = Run.open(root).stage("diffusion")
    assert [bool(receipt.code) for receipt in diffusion.receipts()] == [False, True, True]
    assert "Accepted with --accept-code" in (root / "report.html").read_text()
    assert cxr("verify", root).returncode == 0


def test_given_a_key_that_is_new_since_then_it_says_what_a_run_without_it_did() -> None:
    schema = RunConfig.model_json_schema()
    now: dict[str, Any] = {**schema["$defs"], "RunConfig": schema}
    now |= {old: now[new] for old, new in CLASSES.items() if new in now}
    before = json.loads((OLD / "keys.json").read_text())
    for name, keys in before.items():
        found = now.get(name, {}).get("properties", {})
        fields = {field.get("formerly", key): field for key, field in found.items()}
        lost = set(keys) - set(fields) if name in now else set()
        assert not lost, f"{name} has lost {lost}: a run that has it could not go on; see Formerly"
        silent = sorted(key for key in set(fields) - set(keys) if "absent" not in fields[key])
        assert not silent, f"{name}: {silent} are new; mark them with Absent(VALUE), see docs/upgrading.md"
