"""The batch shell around a payload, with login files and lines of `setup` as sites and people have them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.local import run_tasks
from slurm.profile import ClusterProfile
from slurm.script import Payload, expanding, shell_body

BEGUN = "import os; os.remove(os.environ['CXR_START']); print('begun', os.environ.get('TMPDIR'))"


class Job:
    """One task of a profile as a shell without a scheduler; `home` holds the login files."""

    def __init__(self, folder: Path, **profile: object) -> None:
        self.home, self.submit = folder / "home", folder / "run" / "stage" / "submits" / "0001"
        self.home.mkdir()
        self.submit.mkdir(parents=True)
        payload = Payload([sys.executable, "-c", BEGUN], self.submit, folder, has_heart=False, in_step=False)
        mine = ClusterProfile.model_validate({"name": "mine", **profile})
        self.script = shell_body(mine, payload, cpus=1, hours=1)

    def login(self, text: str) -> "Job":
        (self.home / ".bash_profile").write_text(text)
        return self

    def run(self) -> tuple[int, str, str]:
        """Exit status, log, and how the shell says that it ended."""
        known = {"HOME": str(self.home), "PATH": os.environ["PATH"], "USER": "me"}
        known |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(
            ["bash", "-c", self.script], env=known, capture_output=True, text=True, check=False, timeout=60
        )
        end = self.submit / "7_0-0.end"
        return done.returncode, done.stdout + done.stderr, end.read_text() if end.exists() else ""


@pytest.mark.parametrize(
    ("login", "setup"),
    [
        ("trap 'echo x' EXIT ERR TERM; task=a submit=b restart=c", "false"),
        ("set -o noclobber -o posix; shopt -s expand_aliases; alias rm='echo rm'", "false"),
        ("", "trap - ERR EXIT\nfalse"),
        ("", "source ~/site.sh"),
        ("failed() { :; }; died() { :; }; ended() { :; }; requeue() { :; }", "false"),
    ],
)
def test_given_a_site_that_sets_traps_and_names_of_its_own_then_a_failing_line_still_ends_the_task(
    tmp_path: Path, login: str, setup: str
) -> None:
    job = Job(tmp_path, setup=[setup, "true"]).login(login)
    (job.home / "site.sh").write_text("trap - ERR\nfalse\n")
    status, log, end = job.run()
    assert status == 1
    assert "line 1 of `setup`" in log
    assert end.startswith("start ")
    assert "line 1 of `setup`" in end
    assert "begun" not in log


def test_given_a_line_that_takes_away_the_traps_then_those_after_it_are_watched(tmp_path: Path) -> None:
    status, log, end = Job(tmp_path, setup=["trap - ERR", "false"]).run()
    assert (status, "line 2 of `setup`" in end, "begun" in log) == (1, True, False)


def test_given_login_files_that_start_another_shell_then_the_task_has_left_word(tmp_path: Path) -> None:
    job = Job(tmp_path, setup=["true"]).login("exec sh -c 'exit 0'\n")
    assert "the login files" in job.run()[2]
    status, log, end = job.login("export TOOL=1\n").run()
    assert (status, log, end) == (0, "begun None\n", "")


def test_given_a_file_of_the_site_that_says_exit_0_then_the_task_has_failed(tmp_path: Path) -> None:
    status, _, end = Job(tmp_path, setup=["source ~/site.sh"]).login("echo 'exit 0' > ~/site.sh\n").run()
    assert (status, end.split(maxsplit=3)[2:]) == (1, ["0", "line 1 of `setup` (source ~/site.sh)\n"])


def test_a_tilde_is_the_home_folder_and_a_name_without_a_value_ends_the_task(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    job = Job(tmp_path / "a", scratch="~/tmp/$USER")
    assert job.run()[:2] == (0, f"begun {job.home}/tmp/me\n")
    status, log, end = Job(tmp_path / "b", scratch="$SCRATCH/tmp").run()
    assert status != 0
    assert "SCRATCH: is not set" in log
    assert "making the scratch folder" in end
    assert expanding("/a/${B:-c}/$(id)/$5") == '"/a/${B:-c}/\\$(id)/\\$5"'


def test_given_a_task_of_this_machine_that_ends_well_before_python_then_it_has_failed_and_its_log_says_so(
    tmp_path: Path,
) -> None:
    payload = Payload(["bash", "-c", "exit 0"], tmp_path, tmp_path)
    assert run_tasks(payload, 1, parallel=1, environ={"PATH": os.environ["PATH"]}) == {0: 1}
    assert "in starting Python: exit status 1" in (tmp_path / "local_0.out").read_text()
