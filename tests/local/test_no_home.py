"""A user without a home folder and without a name, as a container has that runs as any number."""

import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import REPOSITORY, require

NOBODY = ("unshare", "--user", "--map-user=54321", "--map-group=54321", "env", "-i", "PATH=/usr/bin:/bin")
"""A name space in which this user has another number, that no file of users knows."""


@pytest.fixture(scope="module", autouse=True)
def name_space() -> None:
    done = subprocess.run([*NOBODY, "id", "-un"], capture_output=True, text=True, check=False)
    require("unshare", "54321" in done.stderr, f"no name space of users can be made here: {done.stderr.strip()}")


def nobody(folder: Path, *words: str | Path) -> CompletedProcess[str]:
    command = [*NOBODY, f"PYTHONPATH={REPOSITORY}", f"TMPDIR={folder}", sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_given_neither_home_nor_name_then_a_profile_is_found_and_a_tilde_is_refused_in_words(tmp_path: Path) -> None:
    planned = nobody(tmp_path, "-m", "jobs.cli", "plan", "demo", "--cluster", "generic")
    assert planned.returncode == 0, planned.stderr
    assert "#SBATCH --array" in planned.stdout
    refused = nobody(tmp_path, "-m", "jobs.cli", "plan", "demo", "--cluster", "~/site.yaml")
    assert refused.returncode == 2
    assert "~/site.yaml: no home folder is known" in refused.stderr
    unknown = nobody(
        tmp_path, "-m", "jobs.cli", "plan", "demo", "stages.real.data.csv=~/a.csv", "stages.real.data.kind=table"
    )
    assert "no home folder is known" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_given_neither_home_nor_name_then_the_doctor_says_so_and_goes_on(tmp_path: Path) -> None:
    examined = nobody(tmp_path, "-m", "jobs.cli", "doctor", "--cluster", "local")
    assert "no home folder is known" in examined.stdout
    assert "Traceback" not in examined.stderr


LIBRARIES = """
from jobs.environment import prepare_environment
prepare_environment()
import getpass, matplotlib
from torch._inductor.runtime.runtime_utils import default_cache_dir, cache_dir
print(getpass.getuser(), matplotlib.get_configdir(), cache_dir(), default_cache_dir())
"""


def test_given_neither_home_nor_name_then_libraries_keep_their_caches_in_a_private_folder(tmp_path: Path) -> None:
    done = nobody(tmp_path, "-c", LIBRARIES)
    assert done.returncode == 0, done.stderr
    name, *caches = done.stdout.split()
    assert name == "uid54321"
    substitute = tmp_path / "cxr-home-54321"
    assert caches[:2] == [str(substitute / "matplotlib"), str(substitute / "inductor")]
    assert substitute.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir() if path.name == "~"] == []
