"""The exact batch scripts, kept as files. `CXR_WRITE_GOLDEN=1 python -m pytest tests/golden` writes them anew."""

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from containers.engine import enter
from containers.stage import prelude
from containers.store import Image
from cxr_core.runs.run import Run
from slurm.executor import clean_environment
from slurm.packs import Job, StageWork
from slurm.profile import ClusterProfile, load_profile
from slurm.submit import Launch, record, script_text

HERE = Path(__file__).parent
HOSTILE = "a space, 'a quote\" and\na newline $(touch x)"

SHARDS = Job(StageWork("synthetic", "generate", 8, 100_000, 98), ("shards",), 24, None, ("1200",))
CHAIN = Job(StageWork("diffusion", "train", 8, 20_000, 40, chain=True), ("freeze", "shards", "finalize"))
RANKS = replace(CHAIN, work=replace(CHAIN.work, nodes=2, ranks_per_node=4))
FREEZE = Job(StageWork("synthetic", "generate", 8, 100_000, 98), ("freeze",), after=("1198", "1199"))
CASES = {
    ("generic", "shards"): SHARDS,
    ("generic", "chain"): CHAIN,
    ("generic", "freeze"): FREEZE,
    ("generic", "ranks"): RANKS,
    ("everything", "shards"): SHARDS,
    ("everything", "chain"): CHAIN,
    ("everything", "ranks"): RANKS,
}


def text_of(profile_name: str, job: Job, run: Path) -> str:
    path = HERE / f"{profile_name}.yaml"
    profile = load_profile(path if path.exists() else profile_name)
    python, code, before = ["/venv/python"], Path("/code of mine"), []
    if profile.container:
        image, cwd = Image(Path(profile.container), 64 * "c", 673_000_000), Path("/home/me")
        python = [*enter(image.path, image.sha256, [run], cwd=cwd, gpus=True, names=["HF_HOME"]), "python"]
        code, before = None, prelude(image, '"/scratch/$USER/images"' if job is SHARDS else None)
    launch = Launch(
        Run(run, {"name": "nano"}), profile, profile_name, Path("/home/me"), [*python, "-m", "jobs.task"], code, before
    )
    submit = record(launch, job, waits_for=[str(each) for each in job.after])
    object.__setattr__(submit, "id", "0badcafe")
    return script_text(launch, job, run / job.work.name / "submits" / "0001", submit)


@pytest.mark.parametrize(("profile", "what"), CASES, ids="-".join)
def test_the_script_of_each_profile_is_the_one_that_is_kept(profile: str, what: str) -> None:
    text = text_of(profile, CASES[profile, what], Path("/runs/it's"))
    golden = HERE / f"{profile}-{what}.sbatch"
    if os.environ.get("CXR_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES.values(), ids=str)
@pytest.mark.parametrize("profile", ["generic", "everything"])
def test_given_hostile_names_then_the_script_is_valid_shell_and_its_directives_are_free_of_them(
    profile: str, case: Job, tmp_path: Path
) -> None:
    text = text_of(profile, case, tmp_path / HOSTILE)
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert not [line for line in directives if "quote" in line or "space" in line]
    assert shlex.quote(str(tmp_path / HOSTILE)) in text


def test_the_local_profile_asks_no_scheduler() -> None:
    assert load_profile("local").scheduler == "local"


# What the shell does around the payload is tested with a stand-in for the payload and for Slurm's two commands.
FAKES = {
    "srun": 'while [ "$1" != -m ]; do shift; done\nexec bash "$PAYLOAD"\n',
    "scontrol": 'echo "$@" >> "$CALLS"\n',
    "scancel": 'echo "scancel $@" >> "$CALLS"\nkill -KILL "$(cat "$PAYLOAD.pid")"\n',
}


def run_script(
    folder: Path, payload: str, *, grace: int = 31, warn_after: float | None = None, before: str = "", **keys: object
) -> tuple[int, list[str]]:
    """Run a script whose payload is a line of bash; returns its exit status and how scontrol was called.

    `before` is what the shell of an earlier start wrote of its end; `keys` are of the profile.
    """
    fakes = folder / "bin"
    fakes.mkdir()
    for name, text in FAKES.items():
        (fakes / name).write_text(f"#!/bin/bash\n{text}")
        (fakes / name).chmod(0o755)
    (folder / "payload").write_text(payload)
    run = folder / HOSTILE
    job = SHARDS
    submit = run / job.work.name / "submits" / "0001"
    submit.mkdir(parents=True)
    if before:
        (submit / "12_3-0.end").write_text(before)
    profile = load_profile("generic").model_copy(update={"grace_seconds": grace, **keys})
    launch = Launch(Run(run, {"name": "nano"}), profile, "generic", folder, ["python", "-m", "jobs.task"], None)
    text = script_text(launch, job, submit, record(launch, job, waits_for=()))
    environ = {
        "PATH": f"{fakes}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PAYLOAD": str(folder / "payload"),
        "CALLS": str(folder / "calls"),
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        # Of the last task of an array this is the number of the array.
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": str(int(bool(before))),
    }
    (folder / "script").write_text(text)
    (submit / "12_3.out").touch()
    with subprocess.Popen(["bash", folder / "script"], env=environ, stdout=subprocess.DEVNULL) as process:
        if warn_after is not None:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(warn_after)
            process.send_signal(12)
        status = process.wait(30)
    calls = folder / "calls"
    assert not list(submit.glob("*.flag*"))
    return status, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("status", [0, 1, 2, 143])
def test_given_no_warning_then_the_script_ends_like_its_payload(status: int, tmp_path: Path) -> None:
    assert run_script(tmp_path, f"exit {status}") == (status, [])


def test_given_a_warning_then_the_payload_sees_it_and_the_one_task_is_requeued(tmp_path: Path) -> None:
    waiting = 'until [ -s "$CXR_FLAG" ]; do sleep 0.1; done; exit 75'
    assert run_script(tmp_path, waiting, grace=90, warn_after=1) == (75, ["requeue 12_3"])


def test_given_a_payload_that_ends_well_after_a_warning_then_nothing_is_requeued(tmp_path: Path) -> None:
    assert run_script(tmp_path, "sleep 2; exit 0", grace=90, warn_after=1) == (0, [])


def test_given_a_long_shard_after_progress_then_the_task_is_requeued_at_the_last_moment(tmp_path: Path) -> None:
    assert run_script(tmp_path, 'touch "$CXR_FLAG.more"; sleep 4', warn_after=1) == (0, ["requeue 12_3"])


def test_given_a_shard_longer_than_the_time_limit_then_it_does_not_come_back_for_ever(tmp_path: Path) -> None:
    assert run_script(tmp_path, "sleep 4", warn_after=1) == (0, [])


def end_of(folder: Path, restart: int = 0) -> str:
    """What the shell wrote of the end of its payload, without the seconds."""
    path = folder / HOSTILE / SHARDS.work.name / "submits" / "0001" / f"12_3-{restart}.end"
    return path.read_text().split()[0] if path.exists() else ""


@pytest.mark.parametrize(
    ("payload", "end"),
    [
        ("kill -KILL $$", "137"),
        ("kill -BUS $$", "135"),
        ('echo "error: Detected 1 oom_kill event" >> "${CXR_FLAG%-0.flag}.out"; kill -KILL $$', "oom"),
        ('echo "error: Exceeded job memory limit" >> "${CXR_FLAG%-0.flag}.out"; kill -KILL $$', "oom"),
        ("exit 1", "start"),
        ('rm "$CXR_START"; exit 1', "1"),
    ],
)
def test_given_a_payload_that_a_signal_ends_then_the_shell_that_outlives_it_writes_down_which(
    payload: str, end: str, tmp_path: Path
) -> None:
    status, calls = run_script(tmp_path, payload)
    assert status == (int(end) if end.isdigit() else 137 if end == "oom" else 1)
    assert (end_of(tmp_path), calls) == (end, [])


def test_given_a_payload_of_which_nothing_is_heard_then_it_is_requeued_once(tmp_path: Path) -> None:
    assert run_script(tmp_path, "sleep 5; exit 0", silent_minutes=0.03) == (0, ["requeue 12_3"])
    assert end_of(tmp_path) == "silent"


def test_given_a_payload_that_was_silent_before_then_it_is_ended_for_good(tmp_path: Path) -> None:
    payload = 'echo $$ > "$PAYLOAD.pid"; sleep 20'
    status, calls = run_script(tmp_path, payload, silent_minutes=0.03, before="silent 2\n")
    assert (status, calls) == (137, ["scancel --signal=KILL 12.0"])
    assert end_of(tmp_path, 1) == "silent"


SETUPS_THAT_FAIL = {
    "exit 3": 3,
    "nosuch": 127,
    "false | cat": 1,
    "value=$(exit 4)": 4,
    "true\nfalse\ntrue": 1,
    "true && (exit 5)": 5,
    ": ${NOBODY_SETS_THIS:?is not set}": 1,
    "echo 'no end": 2,
    "source /nowhere": 1,
    "set -e; trap - EXIT\nfalse": 1,
    "ModuleCmd() { return 6; }; ModuleCmd": 6,
}


@pytest.mark.parametrize(("line", "status"), SETUPS_THAT_FAIL.items(), ids=repr)
def test_given_a_line_of_setup_that_fails_then_the_task_ends_with_its_number_and_its_words(
    line: str, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_script(tmp_path, "echo never >&2; exit 0", setup=["true", line, "echo never >&2"]) == (status, [])
    words = f"line 2 of `setup` ({line.splitlines()[0]}"
    said = capfd.readouterr().err
    assert words in said
    assert f"exit status {status}" in said
    assert "never" not in said
    assert end_of(tmp_path) == "start"


SITE_FILE = """\
false
grep nothing /dev/null | cat
echo $nobody_sets_this > /dev/null
inner() { false; true; }
inner
true
"""


def test_given_lines_that_do_as_sites_do_then_the_work_begins_as_if_nothing_had_been_set(tmp_path: Path) -> None:
    (tmp_path / "site.sh").write_text(SITE_FILE)
    (tmp_path / "functions.sh").write_text("only_here() { return $nobody_sets_this 0; }\n")
    (tmp_path / ".bash_profile").write_text("export BASH_ENV=~/functions.sh PYTHONHOME=/nowhere; umask 777; false\n")
    lines = [
        '[ -z "${PYTHONHOME:-}" ] && only_here',
        f"source {tmp_path}/site.sh",
        "yes | head -n 1 > /dev/null",
        "if false; then true; fi\nfalse || true",
        "declare -A tools=([a]=b)",
        '[ "${tools[a]}" = b ]; submit=mine task=mine; cd /; IFS=:; set -u; shopt -s nullglob; trap "echo bye" EXIT',
    ]
    payload = 'rm "$CXR_START"; [ "$PWD" = "${PAYLOAD%/payload}" ] || exit 1'
    assert run_script(tmp_path, payload, setup=lines) == (0, [])


def test_sbatch_sees_what_the_functions_of_the_callers_shell_are_made_of_where_setup_calls_them() -> None:
    made_of = ("BASH_ENV", "BASH_FUNC_module%%", "MODULEPATH", "MODULES_CMD", "LMOD_CMD", "PATH")
    state = ("LOADEDMODULES", "_LMFILES_", "LMOD_FAMILY_MPI", "_ModuleTable001_", "SLURM_JOB_ID", "PYTHONPATH")
    environ = dict.fromkeys((*made_of, *state), "x")
    with_setup = ClusterProfile(name="site", setup=["module load tool"])
    assert set(clean_environment(with_setup, environ)) == set(made_of)
    assert set(clean_environment(ClusterProfile(name="site"), environ)) == {"PATH"}


def test_given_a_task_that_died_before_its_work_twice_then_it_is_cancelled_lest_the_cluster_requeues_it_for_ever(
    tmp_path: Path,
) -> None:
    (tmp_path / "payload.pid").write_text("999999999")
    status, calls = run_script(tmp_path, "exit 0", setup=["exit 3"], before="start 0 3 line 1\n")
    assert (status, calls) == (3, ["scancel 12_3"])


BEATING = """\
attempt="${CXR_FLAG%/submits/*}/attempts/12_3-0-abc"
mkdir -p "$attempt"
for i in 1 2 3; do echo $i > "$attempt/heartbeat.json"; sleep 1; done
"""


@pytest.mark.parametrize("after", ["", 'echo > "$attempt/ended.json"; sleep 4'])
def test_given_a_heartbeat_or_an_attempt_that_has_ended_then_nothing_hangs(after: str, tmp_path: Path) -> None:
    assert run_script(tmp_path, BEATING + after, silent_minutes=0.04) == (0, [])
    assert end_of(tmp_path) == ""
