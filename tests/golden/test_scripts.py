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
from slurm.packs import Job, StageWork
from slurm.profile import load_profile
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
    launch = Launch(Run(run, {"name": "nano"}), profile, profile_name, Path("/home/me"), python, code, before)
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

    `before` is what the shell of an earlier life wrote of its end; `keys` are of the profile.
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
    launch = Launch(Run(run, {"name": "nano"}), profile, "generic", folder, ["python"], None)
    text = script_text(launch, job, submit, record(launch, job, waits_for=()))
    environ = {
        "PATH": f"{fakes}:{os.environ['PATH']}",
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


def end_of(folder: Path, life: int = 0) -> str:
    """What the shell wrote of the end of its payload, without the seconds."""
    path = folder / HOSTILE / SHARDS.work.name / "submits" / "0001" / f"12_3-{life}.end"
    return path.read_text().split()[0] if path.exists() else ""


@pytest.mark.parametrize(
    ("payload", "end"),
    [
        ("kill -KILL $$", "137"),
        ("kill -BUS $$", "135"),
        ('echo "error: Detected 1 oom_kill event" >> "${CXR_FLAG%-0.flag}.out"; kill -KILL $$', "oom"),
        ('echo "error: Exceeded job memory limit" >> "${CXR_FLAG%-0.flag}.out"; kill -KILL $$', "oom"),
        ("exit 1", ""),
    ],
)
def test_given_a_payload_that_a_signal_ends_then_the_shell_that_outlives_it_writes_down_which(
    payload: str, end: str, tmp_path: Path
) -> None:
    status, calls = run_script(tmp_path, payload)
    assert status == (int(end) if end.isdigit() else 137 if end else 1)
    assert (end_of(tmp_path), calls) == (end, [])


def test_given_a_payload_of_which_nothing_is_heard_then_it_is_requeued_once(tmp_path: Path) -> None:
    assert run_script(tmp_path, "sleep 5; exit 0", silent_minutes=0.03) == (0, ["requeue 12_3"])
    assert end_of(tmp_path) == "silent"


def test_given_a_payload_that_was_silent_before_then_it_is_ended_for_good(tmp_path: Path) -> None:
    payload = 'echo $$ > "$PAYLOAD.pid"; sleep 20'
    status, calls = run_script(tmp_path, payload, silent_minutes=0.03, before="silent 2\n")
    assert (status, calls) == (137, ["scancel --signal=KILL 12.0"])
    assert end_of(tmp_path, 1) == "silent"


BEATING = """\
attempt="${CXR_FLAG%/submits/*}/attempts/12_3-0-abc"
mkdir -p "$attempt"
for i in 1 2 3; do echo $i > "$attempt/heartbeat.json"; sleep 1; done
"""


@pytest.mark.parametrize("after", ["", 'echo > "$attempt/ended.json"; sleep 4'])
def test_given_a_heartbeat_or_an_attempt_that_has_ended_then_nothing_hangs(after: str, tmp_path: Path) -> None:
    assert run_script(tmp_path, BEATING + after, silent_minutes=0.04) == (0, [])
    assert end_of(tmp_path) == ""
