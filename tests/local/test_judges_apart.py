"""The judge of an evaluation is never the gate that chose its images, nor taught by the same patients."""

import re
from pathlib import Path

import pytest
import yaml

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json
from jobs.config import load_config
from jobs.judges import check_judge
from tests.planted import planted_row, planted_rows, write_planted

RUN = """\
name: gated
stages:
  - {name: real, kind: preprocess, data: {kind: phantom, num_images: 60}}
  - {name: others, kind: preprocess, data: {kind: phantom, num_images: 60, seed: 5}}
  - &classifier
    {name: gate, kind: train, model: classifier, inputs: {dataset: others}, steps: 10, checkpoint_every: 10,
     batch_size: 8, learning_rate: 0.001}
  - {<<: *classifier, name: judge, inputs: {dataset: real}, preset: resnet18}
  - name: syn
    kind: generate
    inputs: {model: tiny_base, like: real, gate: gate}
    request: {fill: 20}
    gate: {}
  - {name: study, kind: evaluate, inputs: {real: real, synthetic: syn, judge: judge}, faithfulness: {}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_given_a_judge_of_other_patients_the_config_is_well(tmp_path: Path) -> None:
    assert load_config(str(write(tmp_path, RUN))).stage("syn").gate is not None


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("stages.study.inputs={real: real, synthetic: syn, judge: gate}", "its judge 'gate' is the gate of 'syn'"),
        ("stages.gate.inputs={dataset: real}", "learns from the Dataset that taught the gate 'gate' of 'syn'"),
        ("stages.judge.preset=small", "judge 'judge' and the gate 'gate' of 'syn' are both small"),
    ],
)
def test_given_a_judge_that_chose_the_images_the_config_is_refused_before_anything_runs(
    tmp_path: Path, override: str, text: str
) -> None:
    with pytest.raises(UserError, match=text) as caught:
        load_config(str(write(tmp_path, RUN)), [override])
    assert "1 mistake in the config" in str(caught.value)
    assert re.search("a preprocess stage of its own|another `preset`", str(caught.value))


@pytest.mark.parametrize("key", ["gate", "inputs"])
def test_given_a_gate_without_a_classifier_or_the_reverse_the_config_is_refused(tmp_path: Path, key: str) -> None:
    override = {"gate": "stages.syn.gate=null", "inputs": "stages.syn.inputs={model: tiny_base, like: real}"}[key]
    with pytest.raises(UserError, match=r"`gate` and `inputs\.gate` go together"):
        load_config(str(write(tmp_path, RUN)), [override])


def classifier(folder: Path, dataset: str, seed: int, preset: str = "resnet18") -> Path:
    from cxr_core.models.classifier import build, save

    save(build(preset, 32, ("Effusion",), seed), folder, {"dataset": dataset})
    return folder


def gated(folder: Path, gate: Path, dataset: str | None) -> Dataset:
    """A synthetic Dataset that says what its gate was."""
    from cxr_core.models.classifier_folder import classifier_sha256

    write_planted(folder, planted_rows(4), synthetic=True)
    info = read_json(folder / "dataset.json")
    info["about"]["gate"] = {"sha256": classifier_sha256(gate), "preset": "small", "dataset": dataset}
    write_json(folder / "dataset.json", info)
    return Dataset.open(folder)


def test_given_the_gates_own_weights_dataset_or_architecture_the_evaluation_is_refused(tmp_path: Path) -> None:
    gate = classifier(tmp_path / "gate", "d1", 1, "small")
    sibling, other = (classifier(tmp_path / dataset, dataset, 2) for dataset in ("d1", "d2"))
    alike = classifier(tmp_path / "alike", "d2", 3, "small")
    synthetic = gated(tmp_path / "syn", gate, "d1")
    with pytest.raises(UserError, match="the judge is the classifier that chose these images"):
        check_judge(gate, synthetic)
    with pytest.raises(UserError, match="the judge learnt from the Dataset that taught the gate"):
        check_judge(sibling, synthetic)
    with pytest.raises(UserError, match="the judge and the gate are both small"):
        check_judge(alike, synthetic)
    check_judge(other, synthetic)


def test_given_two_datasets_that_share_images_or_patients_the_evaluation_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    gate, judge = (
        classifier(run / name, dataset, 0, preset)
        for name, dataset, preset in (("gate", "d1", "small"), ("judge", "d2", "resnet18"))
    )
    synthetic = gated(run / "syn", gate, "d1")
    entries = {"gate": {"dataset": "first"}, "judge": {"dataset": "second"}, "syn": {"gate": "gate"}}
    stages = [{"name": name, "kind": "preprocess", "inputs": {}} for name in ("first", "second")]
    stages += [{"name": name, "kind": "train", "inputs": inputs} for name, inputs in entries.items()]
    (run / "config.yaml").write_text(yaml.safe_dump({"stages": stages}))
    write_planted(run / "first", [planted_row("a", source_sha256="x"), planted_row("b", source_sha256="y")])
    shared = [planted_row("c", source_sha256="x"), planted_row("d", source_sha256="z")]
    write_planted(run / "second", shared)
    with pytest.raises(UserError, match="1 of the 2 images that the judge learnt from taught the gate too"):
        check_judge(judge, synthetic)


def test_given_one_source_patients_are_compared_by_name(tmp_path: Path) -> None:
    from jobs.judges import _check_patients

    folders = [
        write_planted(tmp_path / name, [planted_row(name, patient_id="p1", source_sha256=name)]).folder
        for name in ("a", "b")
    ]
    for folder in folders:
        info = read_json(folder / "dataset.json")
        info["about"]["source"] = {"kind": "chestxray14"}
        write_json(folder / "dataset.json", info)
    with pytest.raises(UserError, match="1 patients that the judge learnt from taught the gate too"):
        _check_patients(*map(Dataset.open, folders), tmp_path)
