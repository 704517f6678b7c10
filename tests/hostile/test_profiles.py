"""A profile is code of the user's: nothing that a run folder says of it is executed, and its values stay values."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.facts import facts_of
from cxr_core.runs.resumes import AutoResume
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, new_folder
from jobs.auto_resume import resume_itself
from jobs.cluster_commands import resume
from jobs.config import load_config, resolved
from jobs.submitter import where_sent
from slurm.adjust import adjusted
from slurm.executor import BatchExecutor
from slurm.profile import Resources, load_profile
from slurm.script import expanding
from tests.people import Person, common_folder, need_people
from tests.pipeline import cxr

CONFIG = (
    "name: tiny\nstages: [{name: real, kind: preprocess, threads: 1, size: 32, data: {kind: phantom, num_images: 1}}]\n"
)
EVIL = "inherits: local\nsetup: ['touch {proof}']\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of profiles."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".config" / "cxr" / "clusters"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of which nothing is done, with a profile of somebody else's in its folder."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    with Run.locked(tmp_path / "runs" / "tiny", resolved(load_config(str(tmp_path / "tiny.yaml"), []))) as made:
        made.stage("real").path.mkdir()
    (made.root / "evil.yaml").write_text(EVIL.format(proof=tmp_path / "proof"))
    return made


def name_profile(run: Run, cluster: str) -> None:
    """Let the run folder say that it was sent by this profile."""
    Submit("x", "real", ("shards",), 1, cluster, str(run.root), time="2026").write(new_folder(run.stage("real").path))


PATHS = ["{run}/evil.yaml", "evil.yaml", "../runs/tiny/evil.yaml", "../../../../runs/tiny/evil", "{run}/evil", "~/evil"]


@pytest.mark.parametrize("auto", [False, True], ids=["resume", "auto"])
@pytest.mark.parametrize("cluster", PATHS)
def test_given_a_run_folder_that_names_a_profile_by_a_path_then_nothing_of_it_is_executed(
    auto: bool, cluster: str, run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_profile(run, cluster.format(run=run.root))
    AutoResume(3).write(run.root)
    shutil.copy(run.root / "evil.yaml", home.parents[2] / "evil.yaml")
    monkeypatch.chdir(run.root)
    with pytest.raises(UserError, match="--cluster"):
        resume_itself(run.root, None) if auto else resume(run.root, None)
    assert not (tmp_path / "proof").exists()


def test_given_a_profile_by_hand_then_the_run_goes_on_whatever_its_folder_names(
    run: Run, home: Path, tmp_path: Path
) -> None:
    name_profile(run, "evil.yaml")
    (home / "mine.yaml").write_text(EVIL.format(proof=tmp_path / "mine"))
    done = cxr("resume", run.root, "--cluster", "mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").exists()
    assert not (tmp_path / "proof").exists()


def test_given_a_name_then_it_is_that_of_the_users_own_profile(run: Run, home: Path, tmp_path: Path) -> None:
    (home / "lab.yaml").write_text(EVIL.format(proof=tmp_path / "mine"))
    name_profile(run, "lab")
    (run.root / "lab.yaml").write_text(EVIL.format(proof=tmp_path / "proof"))
    done = cxr("resume", run.root, cwd=run.root)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").exists()
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("whose", [".", "config.yaml", "real", "real/submits/0001", "real/submits/0001/submit.json"])
def test_given_a_run_of_another_user_then_its_profile_must_be_named_by_hand(
    whose: str, run: Run, home: Path, tmp_path: Path
) -> None:
    need_people()
    (home / "lab.yaml").write_text(EVIL.format(proof=tmp_path / "mine"))
    name_profile(run, "lab")
    os.chown(run.root / whose, 54001, -1)
    with pytest.raises(UserError, match=r"54001.*\n.*--cluster NAME"):
        where_sent(run)
    assert where_sent(run, "lab")[0] == "lab"


def test_given_a_colleagues_run_then_resume_runs_none_of_the_users_own_setup_unasked(run: Run) -> None:
    need_people()
    with common_folder() as folder:
        owner, colleague = Person(54001), Person(54002)
        name_profile(run, "local")
        shutil.copytree(run.root, folder / "tiny")
        for path in (folder / "tiny", *(folder / "tiny").rglob("*")):
            os.chown(path, owner.uid, owner.gid)
        done = colleague.cxr("resume", folder / "tiny")
        assert done.returncode == 2
        assert "54001" in done.stderr
        assert "--cluster NAME" in done.stderr


def test_given_a_pipe_as_the_profile_that_a_folder_names_then_nobody_waits_for_it(run: Run) -> None:
    os.mkfifo(run.root / "pipe.yaml")
    name_profile(run, str(run.root / "pipe.yaml"))
    with pytest.raises(UserError, match="none of yours"):
        where_sent(run)


def raised(run: Run, asked: Resources) -> Mapping[str, str]:
    return adjusted(asked, {}, facts_of(run.stage("real")).raised).values


def test_given_words_of_a_folder_for_memory_and_time_then_no_more_is_asked_for_than_the_profile_allows(
    run: Run,
) -> None:
    asked = Resources(mem="4G", max_mem="8G", time="01:00:00", max_time="02:00:00")
    for values in (
        {"mem": "8G\n#SBATCH --uid=0", "time": "02:00:00\n#SBATCH --wrap=evil"},
        {"mem": "900T", "time": "365-00:00:00"},
        {"mem": "0", "time": "UNLIMITED"},
    ):
        submit = Submit("x", "real", ("shards",), 1, "lab", "/", raised=values)
        submit.write(new_folder(run.stage("real").path))
        assert raised(run, asked) == {}
    submit = Submit("x", "real", ("shards",), 1, "lab", "/", raised={"mem": "8G", "time": "02:00:00"})
    submit.write(new_folder(run.stage("real").path))
    assert raised(run, asked) == {"mem": "8G", "time": "02:00:00"}


def test_what_is_sent_is_not_read_back_from_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between writing and sending, a colleague may put another script in its place."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\nfor last; do :; done\n[ -f "$last" ] && exec < "$last"\ncat > got; echo 5\n')
    sbatch.chmod(0o755)
    (tmp_path / "srun").symlink_to(sbatch)  # submitit looks for it
    path = f"{tmp_path}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(tmp_path)
    executor = BatchExecutor(tmp_path, "job", {"PATH": path})
    executor.update_parameters(job_name="job")
    swap = tmp_path / "script.sbatch"
    monkeypatch.setattr("slurm.executor.write_atomic", lambda path, text: swap.write_text("#!/bin/sh\nevil\n"))
    executor.submit_body("good")
    assert "good" in (tmp_path / "got").read_text()
    assert "evil" not in (tmp_path / "got").read_text()


REFUSED = [
    "cpu_bind: 'none;evil'",
    "cpu_bind: none&evil",
    "cpu_bind: none|evil",
    "cpu_bind: 'none>file'",
    "cpu_bind: '(evil)'",
    "cpu_bind: '#'",
    'cpu_bind: "none\\nevil"',
    "sbatch: ['--wrap=evil']",
    "sbatch: ['--wra=evil']",
    'sbatch: ["--reservation=a\\n#SBATCH --wrap=evil"]',
    'sbatch: ["--reservation=a\\r#SBATCH --wrap=evil"]',
    "sbatch: [\"--reservation=a' --wrap='evil\"]",
    "sbatch: ['--get-user-env']",
    "sbatch: ['--input=/dev/zero']",
    *(f"env: [{name}]" for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "PYTHONPATH", "PYTHONSTARTUP", "ENV")),
    *(
        f"caches: {{{name}: /x}}"
        for name in ("LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "PYTHONPATH", "PATH", "IFS", "HOME")
    ),
    *(f"caches: {{{name}: /x}}" for name in ("SLURM_JOB_ID", "CXR_FLAG", "PROMPT_COMMAND", "GCONV_PATH", "TMPDIR")),
    *(f"caches: {{{name}: /x}}" for name in ("APPTAINERENV_LD_PRELOAD", "SINGULARITY_BIND", "OMP_NUM_THREADS")),
    "caches: {'HF_HOME;evil': /x}",
    'caches: {"HF_HOME\\nevil": /x}',
    'caches: {HF_HOME: "/x\\nevil"}',
    "scratch: /x/${HOME:-$(evil)}",
    "scratch: /x/${PS1@P}",
    "scratch: '/x/${a[$(evil)]}'",
    'scratch: "/x\\n"',
    'container: "/x\\n.sif"',
    'binds: ["/x\\n"]',
    'setup: ["module load a\\0b"]',
    'partition: "gpu\\n#SBATCH --wrap=evil"',
    'account: "lab\\x1b[2J"',
    'mail_user: "me@x\\n#SBATCH --uid=0"',
    'mem: "4G\\n"',
    'time: "01:00:00\\n"',
    'gpus_per_node: "a100:4\\n"',
    'gpu_type: "a100\\n"',
    'clusters: "west\\n"',
]


@pytest.mark.parametrize("text", REFUSED)
def test_given_a_value_that_would_be_a_command_or_steer_one_then_the_profile_is_refused(text: str, home: Path) -> None:
    (home / "x.yaml").write_text(f"inherits: base\ngpus_per_node: 1\n{text}\n")
    with pytest.raises(UserError, match=text.partition(":")[0]):
        load_profile("x")


ALLOWED = [
    *(f"cpu_bind: '{value}'" for value in ("none", "verbose,cores", "map_cpu:0,1", "mask_cpu:0x3,0xC*2", "rank_ldom")),
    "env: [MY_TOKEN, CUDA_HOME]",
    "caches: {HF_HOME: '/scratch/$USER/hf', APPTAINER_CACHEDIR: '~/c', TRITON_CACHE_DIR: '${TMPDIR:-/tmp}/t'}",
    "scratch: /scratch/${SLURM_JOB_ID}/a b'c",
    "constraint: 'a100|h100&[rack1*2]'",
    "sbatch: ['--begin=2030-01-01 10:00', '--nodelist=n[1-2]', '--comm=x']",
    'setup: |\n  module load a\n  \tif true; then echo "b"; fi',
]


@pytest.mark.parametrize("text", ALLOWED[:-2] + ALLOWED[-1:])
def test_given_what_sites_write_then_it_is_taken(text: str, home: Path) -> None:
    (home / "x.yaml").write_text(f"inherits: base\n{text}\n")
    load_profile("x")


NASTY = ["a'b", 'a"b', "a b", "a$(touch p)b", "a`touch p`b", "a\\b", "a;touch p", "a\nb", "a*", "a!b", "-a"]


@pytest.mark.parametrize("name", NASTY)
def test_given_a_folder_with_any_name_then_the_shell_sees_it_as_it_is(name: str, tmp_path: Path) -> None:
    text = f"printf %s {expanding(f'/x/{name}')}"
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"/x/{name}"
    assert not (tmp_path / "p").exists()
