"""Profiles of clusters: what a key means, where they are found, and that every mistake is named with file and line."""

from pathlib import Path

import pytest

from cxr_core.errors import UserError
from slurm.notes import notes_on
from slurm.profile import ClusterProfile, load_profile
from tests.pipeline import cxr
from tests.slurm.tiny import write_config


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
    assert f"{home / 'p.yaml'}:2: mem: '32 gigs' is no amount of memory to Slurm: write 32G" in text
    assert f"{home / 'c.yaml'}:2: nodez: unknown key" in text
    assert f"{home / 'c.yaml'}:5: stages.train.cpus: unknown key" in text
    assert f"{home / 'c.yaml'}:6: stages.paint: Input should be 'preprocess'" in text
    assert "-> keys are: inherits, partition, account" in text


def test_given_a_profile_of_before_then_a_renamed_key_is_named_with_its_name_of_now(home: Path) -> None:
    (home / "old.yaml").write_text("inherits: base\npack_minutes: 30\n")
    with pytest.raises(UserError, match=r"old\.yaml:2: pack_minutes: this key is now called task_minutes"):
        load_profile("old")


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ("04:00:00", 4),
        ("24:00:00", 24),
        ("4:00", 4 / 60),
        ("240", 4),
        ("010", 10 / 60),
        ("1-12", 36),
        ('"04:00"', 4 / 60),
        ('"00:30:00"', 0.5),
        ('"2-00:00:00"', 48),
        ('"1-12:00"', 36),
        ('"0:30"', 1 / 60),
    ],
)
def test_a_time_limit_is_what_slurm_reads_whatever_it_is_to_yaml(home: Path, written: str, hours: float) -> None:
    (home / "t.yaml").write_text(f"inherits: base\nstages:\n  train: {{time: {written}}}\n")
    train = load_profile("t").resources("train")
    assert train.hours == hours
    assert train.time == written.strip('"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time: 4h", r"x\.yaml:1: time: '4h' is no time to Slurm: write 240 \(minutes\), \"04:00:00\""),
        ("time: 1.5", "time: '1.5' is no time to Slurm"),
        ("time: 2026-01-01", "time: '2026-01-01' is no time to Slurm"),
        ("time: true", "time: Input should be a valid string, not True"),
        ("time: UNLIMITED", "time: 'UNLIMITED' means no limit to Slurm, and one is needed"),
        ("max_time: 0", "max_time: '0' means no limit to Slurm"),
        ("mem: 1.5G", r"mem: '1.5G' is no amount of memory to Slurm: .*without a decimal point"),
        ("mem: 32GiB", "mem: '32GiB' is no amount of memory"),
        ("max_mem: -1", "max_mem: '-1' is no amount of memory"),
        ("gpus_per_node: -1", "gpus_per_node: '-1' is not one number of GPUs: write 4, or a100:4"),
        ("gpus_per_node: 1.5", "gpus_per_node: '1.5' is not one number of GPUs"),
        ("gpus_per_node: 65", "gpus_per_node: Input should be less than or equal to 64"),
        ("gpus_per_node: a100:2,h100:2", "'a100:2,h100:2' is not one number of GPUs"),
        ("gpus_per_node: a100:2\ngpu_type: h100", "gpus_per_node: a100:2 and gpu_type: h100 are two kinds of GPU"),
        ("clusters: a,b", "clusters: 'a,b' is more than one cluster"),
        ("clusters: all", "clusters: 'all' is more than one cluster"),
        ("env: [SQUEUE_FORMAT]", "must not reach another job"),
    ],
)
def test_given_what_slurm_would_read_otherwise_then_it_is_refused_in_words(home: Path, text: str, message: str) -> None:
    (home / "x.yaml").write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        load_profile("x")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--clusters=gpu", "--clusters is not for `sbatch:`: set clusters:"),
        ("-M gpu", "'-M gpu' is not for `sbatch:`: set clusters:"),
        ("-Mgpu", "set clusters:"),
        ("--cluster=gpu", "set clusters:"),
        ("--arr=0-3", r"--arr \(short for --array\) is not for `sbatch:`: set array_parallelism:"),
        ("--array=0-3", "set array_parallelism: and max_array_size:"),
        ("--dependency=afterok:1", "jobs wait for each other"),
        ("--job-name=x", "by its name a job is found again"),
        ("--comment=x", "by its name a job is found again"),
        ("--output=x", "logs lie in the run folder"),
        ("--error=x", "logs lie in the run folder"),
        ("--parsable", "the answer of sbatch"),
        ("--wrap=true", "sbatch must send a script"),
        ("--test-only", "sbatch must send a script"),
        ("--wait", "sbatch must send a script"),
        ("--uid=me", "jobs are sent as you"),
        ("--export=NONE", "set env:"),
        ("--chdir=/tmp", "the folder where you called"),
        ("--time=10", "set time:"),
        ("--mem=1G", "set mem:"),
        ("--partition=x", "set partition:"),
        ("-p x", "set partition:"),
        ("--cpus-per-task=2", "set cpus_per_task:"),
        ("--gpus=2", "set gpus_per_node: and gpu_type:"),
        ("--gres=gpu:2", "set gpus_per_node: and gpu_type:"),
        ("--gres=lscratch:10,gpu:a100:1", "set gpus_per_node: and gpu_type:"),
        ("--nodes=2", "set ranks: of a training stage"),
        ("--signal=USR1", "set grace_seconds:"),
        ("--no-requeue", "comes back by being requeued"),
        ("--mem-per-cpu=2G", "--mem-per-cpu=2G contradicts mem: write `mem: null`"),
        ("reservation=x", "'reservation=x' is no long option of sbatch: write --name"),
    ],
)
def test_given_an_option_that_a_key_says_or_that_hides_jobs_then_it_is_refused_with_what_to_use(
    home: Path, option: str, words: str
) -> None:
    (home / "x.yaml").write_text(f"mem: 4G\nsbatch: ['{option}']\n")
    with pytest.raises(UserError, match=words):
        load_profile("x")


def test_options_that_no_key_says_are_passed_on(home: Path) -> None:
    options = ["--reservation=x", "--exclusive", "--mem-bind=local", "--time-min=10", "--gres-flags=enforce-binding"]
    options += ["--nodelist=n[1-2]", "--hold", "--begin=now+1hour", "--licenses=a:1", "--mem-per-cpu=2G"]
    (home / "x.yaml").write_text(f"sbatch: {options}\n")
    assert load_profile("x").sbatch == options


@pytest.mark.parametrize(
    ("text", "gres"),
    [
        ("gpus_per_node: 4", "gpu:4"),
        ("gpus_per_node: a100:4", "gpu:a100:4"),
        ("gpus_per_node: gpu:a100:4", "gpu:a100:4"),
        ("gpus_per_node: 4090:2", "gpu:4090:2"),
        ("gpus_per_node: 'gpu:4'", "gpu:4"),
        ("gpus_per_node: 4\ngpu_type: a100", "gpu:a100:4"),
        ("gpus_per_node: 1\ngpu_type: 4090", "gpu:4090:1"),
        ("gpus_per_node: 1g.10gb+me:2", "gpu:1g.10gb+me:2"),
        ("gpus_per_node: gres/gpu:a100=2", "gpu:a100:2"),
        ("gpus_per_node: gpu=2", "gpu:2"),
    ],
)
def test_gpus_are_given_by_number_or_as_slurm_writes_them(home: Path, text: str, gres: str) -> None:
    (home / "x.yaml").write_text(f"inherits: base\n{text}\n")
    profile = load_profile("x")
    assert profile.resources("train").gres == gres
    assert profile.resources("control").gres is None


def test_a_name_of_digits_is_a_name(home: Path) -> None:
    (home / "mine.yaml").write_text("account: 0123\nstages: {train: {partition: 7, qos: 1e5}}\n")
    found = load_profile("mine")
    train = found.resources("train")
    assert (found.account, train.account, train.partition, train.qos) == ("0123", "0123", "7", "1e5")


def test_given_a_limit_that_is_minutes_and_seconds_then_a_note_says_what_hours_would_be() -> None:
    profile = ClusterProfile(name="x", time="04:00", stages={"train": {"time": "12:00:00", "max_time": "48:00"}})
    notes = [str(note) for note in notes_on(profile, {})]
    assert len(notes) == 2
    assert notes[0].startswith('time: "04:00" is 4 min to Slurm')
    assert notes[0].endswith('for hours and minutes write "04:00:00"')
    assert notes[1].startswith('stages.train.max_time: "48:00" is 48 min')
    assert notes_on(load_profile("generic"), {}) == []


def test_plan_says_each_limit_in_words_and_which_may_not_be_meant(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        'inherits: base\ntime: "04:00"\nstages:\n  preprocess: {seconds_per_item: 20}\n'
    )
    told = cxr("plan", write_config(tmp_path), "--cluster", tmp_path / "site.yaml", "--runs", tmp_path).stdout
    assert "time limits: 4 min (preprocess), 1 h (control)" in told
    assert '\ntime: "04:00" is 4 min to Slurm, which reads minutes and seconds; for hours' in told
    assert "#SBATCH --time=04:00\n" in told


def test_given_a_cluster_that_only_the_shell_names_then_a_note_says_where_jobs_go() -> None:
    environ = {"SLURM_CLUSTERS": "gpu"}
    (note,) = notes_on(ClusterProfile(name="x"), environ)
    assert "SLURM_CLUSTERS=gpu of this shell is not used" in note.fact
    assert "set `clusters: gpu`" in note.hint
    assert notes_on(ClusterProfile(name="x", clusters="gpu"), environ) == []
    assert notes_on(load_profile("local"), environ) == []


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
