"""The site's shell on a real cluster: `setup` with a real `module`, and tasks that end before Python begins."""

from pathlib import Path

from tests.conftest import require
from tests.slurm.cluster import Cluster
from tests.slurm.tiny import TinyRun

ONE_TASK = 10.0
"""Minutes of a pack that holds all shards."""

MODULEFILE = """\
#%Module1.0
setenv CXR_TOOL 1.0
"""

LOGIN = """\
# As people have it: it ends in another folder, with other options, and with names that scripts use too.
lab_tool() { echo "the lab's tool: $CXR_TOOL, $nothing"; }
export PYTHONHOME=/nowhere PYTHONPATH=/nowhere
umask 077
trap 'echo bye' EXIT
task=mine submit=mine
cd /
false
set -eu
"""


class Site(TinyRun):
    """A user whose home folder is of this test; `setup` are the lines of the profile, each with its quotes."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(cluster, folder)
        self.home = folder / "home"
        self.home.mkdir()
        self.env["HOME"] = str(self.home)

    def set_up(self, *setup: str) -> None:
        self.write_profile(minutes=ONE_TASK)
        text = self.profile.read_text().partition("setup:")[0]
        self.profile.write_text(text + "setup:\n" + "".join(f"  - {line}\n" for line in setup))

    def refused(self) -> str:
        done = self.cxr("resume", self.root)
        assert done.returncode == 2, done.stdout
        return done.stderr


def test_given_a_site_with_modules_then_setup_loads_one_whatever_the_login_files_hold(
    cluster: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    require("modules", Path("/etc/profile.d/modules.sh").exists(), "apt-get install environment-modules")
    run = Site(cluster, tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tool").write_text(MODULEFILE)
    (run.home / ".bash_profile").write_text(LOGIN)
    run.set_up(f"module use '{tmp_path}/modules'", "module load tool", "set +u; lab_tool", "set -eu")
    run.submit()
    run.wait()
    assert "the lab's tool: 1.0, \n" in run.logs()
    run.assert_whole(tiny_digest)
    assert (run.stage.path / "stage.json").stat().st_mode & 0o077


def test_given_tasks_that_die_before_python_then_they_are_told_and_not_sent_again_without_a_word(
    cluster: Cluster, tmp_path: Path, tiny_digest: str
) -> None:
    looping, run = Site(cluster, tmp_path / "looping"), Site(cluster, tmp_path / "one")
    looping.set_up("exit 93")
    looping.submit()

    run.set_up("'true'", "|\n    export TOOL=1\n    false | cat\n    echo never")
    first = run.submit()
    run.wait()
    why = "did not come to its first shard: exit status 1 in line 2 of `setup` (export TOOL=1 ...)"
    for told in (run.status(), run.cxr("logs", run.root).stdout, run.refused()):
        assert f"task {first}_0 {why}" in told
    assert "never" not in run.logs()

    run.set_up("export PYTHONHOME=/nowhere")
    run.resume("--retry-parked")
    run.wait()
    second = run.submits[-1].job_id
    why = "did not come to its first shard: exit status 1 in starting Python"
    for told in (run.status(), run.cxr("logs", run.root, "real", "00003").stdout, run.refused()):
        assert f"task {second}_0 {why}" in told
        assert "No module named 'encodings'" in told
    assert len(run.submits) == 2

    run.set_up("'true'")
    assert run.cxr("resume", run.root, "--retry-parked").returncode == 0
    run.wait()
    run.assert_whole(tiny_digest)
    # The cluster requeues what ends with 93 (RequeueExit): once, and no more.
    assert "exit status 93 in line 1 of `setup` (exit 93)" in looping.status()
    assert "it died so before, and is cancelled" in looping.logs()
