"""The wheel: what is in it, and that a user's folders named like ours cannot shadow it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tracked files, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and not name.startswith("tests/") and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_configs_and_report_templates_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "jobs/configs/demo.yaml" in names
    assert any(name.startswith("cxr_core/report/") and name.endswith(".html") for name in names)
    assert not [name for name in names if name.startswith("tests/")]


def test_given_folders_named_like_ours_beside_the_user_then_the_wheel_still_plans_the_demo(
    wheel: Path, tmp_path: Path
) -> None:
    site, here = tmp_path / "site", tmp_path / "here"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    for name in ("jobs", "slurm", "containers", "cxr_core"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise ImportError('the folder of the user')")
    environ = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "jobs.cli", "demo", "--dry-run"]
    done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "synthetic" in done.stdout
