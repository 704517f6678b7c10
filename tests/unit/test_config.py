"""The config: ready ones are valid, and every mistake is named with file, line and key, all at once."""

import json
import os
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.plan import Plan
from cxr_core.runs.run import Run
from cxr_core.settings import OF_A_RUN, in_former_names
from jobs.config import RunConfig, config_of, continued, in_current_keys, keep_unnamed, load_config, resolved
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
    before = in_former_names(config, resolved(config))
    assert RunConfig.model_validate(before, context=OF_A_RUN) == config, "a run of before has the keys' former names"


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


def test_given_a_renamed_key_then_its_line_and_its_name_of_now_are_told(write) -> None:
    text = "name: x\nstages:\n  - name: real\n    kind: preprocess\n    data:\n      kind: phantom\n      images: 5\n"
    with pytest.raises(UserError, match=r"run\.yaml:7: stages\.real\.data\.images: this key is now called num_images"):
        load_config(write(text))


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


def test_given_a_working_folder_that_is_not_utf8_then_it_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"m\xfc")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"metadata: the path '.*/m.udcfc/nih' is not UTF-8") as caught:
        load_config("nih14_small", ["stages.real.data.metadata=nih"])
    str(caught.value).encode()


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
    ("change", "why"),
    [
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("stages.nobody.steps=3", "no 'nobody'"),
        ("stages.real=3", "which key of the stage"),
        ("seed.deep=3", "'seed' has no parts"),
        ("seed.deep.er=3", "'deep' has no parts"),
        ("seed=[1", "not YAML"),
    ],
)
def test_given_a_bad_override_then_it_is_quoted_with_what_is_wrong(change: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("demo", [change])
    assert repr(change) in caught.value.what
    assert why in caught.value.what


@pytest.mark.parametrize("change", ["stages=3", "stages=3=4"])
def test_given_an_override_of_another_type_then_the_key_is_named(change: str) -> None:
    with pytest.raises(UserError, match=r"\bstages: "):
        load_config("demo", [change])


def test_the_schema_describes_every_key() -> None:
    schema = RunConfig.model_json_schema()
    assert json.dumps(schema)
    for name, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert "description" in value or "$ref" in value or "const" in value, f"{name}.{key} has no description"


def test_given_a_run_without_a_newer_key_then_what_the_config_does_not_name_is_as_the_run_did() -> None:
    value = {"size": 512, "white": 4095, "stages": [{"name": "a", "white": 4095}, {"name": "b", "deep": {"white": 1}}]}
    recorded = {"size": 256, "stages": [{"name": "a"}, {"name": "b", "deep": {}}]}
    meant = {"size": 256, "white": None, "stages": [{"name": "a", "white": None}, {"name": "b", "deep": {"white": 0}}]}
    given = {"stages": [{"name": "a", "white": 4095}, {"name": "b"}]}
    keep_unnamed(value, given, recorded, meant)
    assert value["size"] == 512, "a default that changed is a difference, which is shown"
    assert value["white"] is None
    assert [stage.get("white") for stage in value["stages"]] == [4095, None], "what is named is asked for"
    assert value["stages"][1]["deep"]["white"] == 0


@pytest.mark.parametrize(
    ("before", "recorded_as", "key"),
    [
        ("shard_size: 1000", "shard_size: 2000", "shard_size"),
        ("validation_share: 0.1", "validation: 0.2", "validation_share"),
    ],
)
def test_given_a_default_that_has_changed_then_the_run_is_refused_with_both_and_its_own_config_goes_on(
    tmp_path: Path, before: str, recorded_as: str, key: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: first\nstages: [{name: real, kind: preprocess, data: {kind: phantom, num_images: 5, size: 32}}]\n"
    )
    root = tmp_path / "first"
    with Run.locked(root, resolved(load_config(str(path)))) as run:
        (root / "real").mkdir()
        Plan("real", (), "f").write(run.stage("real").plan_path)
    recorded = root / "config.yaml"
    recorded.write_text(recorded.read_text().replace(before, recorded_as))
    config = continued(load_config(str(path)), root)
    refused = pytest.raises(UserError, match=rf"-.*{key}: \S+\n.*\+.*{before}\n(.|\n)*first/config\.yaml")
    with refused, Run.locked(root, resolved(config), read=in_current_keys):
        pass
    with Run.locked(root, resolved(load_config(str(recorded))), read=in_current_keys) as run:
        assert run.config["stages"][0][key] == float(recorded_as.split()[1])


def test_given_a_key_that_this_version_does_not_know_then_the_run_says_so_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\nlater: 1\nstages: [{name: real, kind: preprocess}]\n")
    with pytest.raises(UserError, match=r"later: unknown key(.|\n)*go on with the version that made it"):
        config_of(Run.open(tmp_path))
