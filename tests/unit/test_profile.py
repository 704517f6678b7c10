"""Profiles of clusters: what a key means, where they are found, and that every mistake is named with file and line."""

from pathlib import Path

import pytest

from cxr_core.errors import UserError
from slurm.profile import ClusterProfile, Resources, load_profile


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where a user keeps profiles."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".config" / "cxr" / "clusters"
    folder.mkdir(parents=True)
    return folder


def test_the_shipped_profiles_are_valid_and_told_by_name() -> None:
    assert load_profile("local").scheduler == "local"
    generic = load_profile("generic")
    assert generic.name == "generic"
    assert generic.resources("generate").gres == "gpu:1"
    assert generic.resources("preprocess").gres is None
    assert generic.resources("control").gres is None
    assert generic.resources("train").hours == 12


def test_given_a_profile_of_the_user_then_it_inherits_key_by_key(home: Path) -> None:
    (home / "site.yaml").write_text(
        "inherits: generic\npartition: gpu\ngpu_type: a100\ncaches: {HF_HOME: /scratch/hf}\n"
        'stages:\n  train: {gpus_per_node: 4}\n  generate: {time: "01:30:00"}\n'
    )
    (home / "night.yaml").write_text("inherits: site\ncaches: {TRITON_CACHE_DIR: /scratch/triton}\n")
    night = load_profile("night")
    assert night.resources("train").gres == "gpu:a100:4"
    assert night.resources("train").hours == 12
    assert night.resources("generate").hours == 1.5
    assert night.partition == "gpu"
    assert night.caches == {"HF_HOME": "/scratch/hf", "TRITON_CACHE_DIR": "/scratch/triton"}


def test_given_a_path_then_its_parents_are_looked_for_beside_it_first(home: Path, tmp_path: Path) -> None:
    (home / "base2.yaml").write_text("partition: home\n")
    (tmp_path / "base2.yaml").write_text("partition: beside\n")
    (tmp_path / "a.yaml").write_text("inherits: base2\n")
    assert load_profile(tmp_path / "a.yaml").partition == "beside"


def test_given_a_profile_named_like_ours_then_it_may_inherit_from_ours(home: Path) -> None:
    (home / "generic.yaml").write_text("inherits: generic\naccount: lab\n")
    assert load_profile("generic").account == "lab"
    assert load_profile("generic").mem == "32G"


def test_given_mistakes_in_child_and_parent_then_each_is_named_with_its_file_line_and_key(home: Path) -> None:
    (home / "p.yaml").write_text("partition: gpu\nmem: 32 gigs\n")
    (home / "c.yaml").write_text("inherits: p\nnodez: 3\n\nstages:\n  train: {cpus: 3}\n  paint: {}\n")
    with pytest.raises(UserError) as error:
        load_profile("c")
    text = str(error.value)
    assert text.startswith("4 mistakes in the profile of a cluster")
    assert f"{home / 'p.yaml'}:2: mem: String should match pattern" in text
    assert f"{home / 'c.yaml'}:2: nodez: unknown key" in text
    assert f"{home / 'c.yaml'}:5: stages.train.cpus: unknown key" in text
    assert f"{home / 'c.yaml'}:6: stages.paint: Input should be 'preprocess'" in text
    assert "-> keys are: inherits, partition, account" in text


def test_given_a_time_without_quotes_then_the_error_shows_how_to_write_it(home: Path) -> None:
    (home / "t.yaml").write_text("partition: gpu\ntime: 24:00:00\n")
    with pytest.raises(UserError, match=r't\.yaml:2: time: 86400 is no time: write "HH:MM:SS" or .*, in quotes'):
        load_profile("t")


@pytest.mark.parametrize(("time", "hours"), [("00:30:00", 0.5), ("2-00:00:00", 48), ("1-12:00", 36), ("04:00", 4)])
def test_a_time_limit_is_read_as_hours(time: str, hours: float) -> None:
    assert Resources(time=time).hours == hours


def test_given_a_circle_then_it_is_drawn(home: Path) -> None:
    (home / "a.yaml").write_text("inherits: b\n")
    (home / "b.yaml").write_text("inherits: a\n")
    with pytest.raises(UserError, match=r"inherit in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_profile("a")


def test_given_an_unknown_name_then_the_known_ones_are_listed(home: Path) -> None:
    (home / "mine.yaml").write_text("{}\n")
    with pytest.raises(UserError, match=r"nowhere: no such profile.*\n.*base, generic, local, mine"):
        load_profile("nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: [SLURM_JOB_ID]", "must not reach another job"),
        ("partition: 'a b'", "has a space"),
        ("gpu_type: a100", "gpu_type is set, but gpus_per_node is 0"),
        ("sbatch: ['reservation=x']", "String should match pattern"),
        ("max_submit: 0", "greater than or equal to 1, not 0"),
        ("- a", "not a mapping of keys"),
        ("mem: 1G\nmem: 2G", "key 'mem' stands twice"),
    ],
)
def test_given_a_value_that_cannot_be_then_it_is_refused(home: Path, text: str, message: str) -> None:
    (home / "x.yaml").write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        load_profile("x")


def test_every_key_has_a_description() -> None:
    schema = ClusterProfile.model_json_schema()
    assert all("description" in value for value in schema["properties"].values())
