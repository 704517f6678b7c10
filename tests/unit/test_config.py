"""The config: ready ones are valid, and every mistake is named with file, line and key, all at once."""

import json
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from jobs.config import RunConfig, load_config, resolved
from tests.conftest import REPOSITORY

READY = sorted(path.stem for path in (REPOSITORY / "jobs" / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return _write


@pytest.mark.parametrize("name", READY)
def test_a_ready_config_is_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CXR_SD21", "CXR_REAL", "CXR_SYNTHETIC", "CXR_FEATURES"):
        monkeypatch.setenv(variable, str(tmp_path))
    config = load_config(name)
    assert config.name == name
    assert RunConfig.model_validate(resolved(config)) == config


def test_given_several_mistakes_then_all_are_listed_with_line_and_key() -> None:
    changes = ["name=7/8", "stages.judge.stepz=4", "stages.real.size=abc", "stages.study.inputs.real=diffusion"]
    with pytest.raises(UserError) as error:
        load_config("demo", changes)
    text = str(error.value)
    assert text.startswith("4 mistakes in the config")
    for line in (
        r"demo.yaml:4: name: String should match pattern",
        r": stages.judge.stepz: unknown key",
        r"demo.yaml:10: stages.real.size: Input should be a valid integer",
        r"stage 'study': input 'real' wants a generate or preprocess stage, but 'diffusion' is "
        "'train.diffusion'",
    ):
        assert line in text


def test_given_an_input_that_comes_later_then_the_mend_is_to_move_it_up(write) -> None:
    stages = "\n".join(
        f"  - {{name: {name}, kind: latents, inputs: {{dataset: {dataset}, base: .}}}}"
        for name, dataset in (("a", "b"), ("b", "."))
    )
    with pytest.raises(UserError, match="names 'b', which comes later: move that stage up"):
        load_config(write(f"name: x\nstages:\n{stages}\n"))


def test_given_an_unknown_kind_then_the_known_ones_are_listed(write) -> None:
    with pytest.raises(UserError, match=r"run\.yaml:3: stages\.a: unknown kind 'paint'; known are 'preprocess'"):
        load_config(write("name: x\nstages:\n  - {name: a, kind: paint}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not YAML"),
        ("- a", "not a mapping"),
        ("name: ${CXR_NOT_SET}\n", r"run\.yaml:1: CXR_NOT_SET is not set\n  -> export CXR_NOT_SET="),
        ("name: x\nstages: []\n", "stages: List should have at least 1 item"),
        ("name: x\nstages: 5\n", r"run\.yaml:2: stages: Input should be a valid list"),
        ("name: x\nseed: 1\nseed: 2\nstages: []\n", "key 'seed' stands twice"),
    ],
)
def test_given_a_file_that_is_no_config_then_the_error_says_why(write, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(write(text))


def test_given_latents_to_generate_with_then_they_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"input 'model' wants a train\.diffusion or train\.pggan stage, but 'latents' is 'latents'"
    ):
        load_config("demo", ["stages.synthetic.inputs.model=latents"])


def test_given_a_model_of_ours_by_name_then_it_fills_the_roles_of_models_only() -> None:
    load_config("demo", ["stages.synthetic.inputs.model=tiny_base"])
    with pytest.raises(UserError, match=r"input 'real' names 'tiny_base', which is neither an earlier stage nor a fol"):
        load_config("demo", ["stages.study.inputs.real=tiny_base"])


def test_given_a_diffusion_model_as_judge_then_a_classifier_is_asked_for() -> None:
    changes = ["stages.study.inputs.judge=diffusion", "stages.study.inputs.judge=null"]
    with pytest.raises(UserError, match=r"input 'judge' wants a train\.classifier stage, but 'diffusion' is"):
        load_config("demo", changes[:1])
    with pytest.raises(
        UserError, match=r"stages\.study.*: fidelity\.features is 'judge', but inputs\.judge is not set"
    ):
        load_config("demo", changes[1:])


def test_a_stage_is_found_by_its_name_or_by_a_kind_that_stands_once() -> None:
    config = load_config("demo")
    assert config.stage("real") is config.stage("preprocess")
    with pytest.raises(UserError, match=r"no stage 'train'.*\n.*its stages are: real, latents"):
        config.stage("train")


def test_given_a_name_that_is_no_file_then_the_ready_configs_are_named() -> None:
    with pytest.raises(UserError, match=r"ready configs: .*\bdemo, "):
        load_config("nothing")


@pytest.mark.parametrize(
    "change", ["seed", "=3", "stages.nobody.steps=3", "stages=3=4", "stages=3", "seed.deep=3", "seed=[1"]
)
def test_given_a_bad_override_then_it_is_quoted(change: str) -> None:
    with pytest.raises(UserError, match=f"{change.split('=')[0]}|key=value"):
        load_config("demo", [change])


def test_the_schema_describes_every_key() -> None:
    schema = RunConfig.model_json_schema()
    assert json.dumps(schema)
    for name, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert "description" in value or "$ref" in value or "const" in value, f"{name}.{key} has no description"
