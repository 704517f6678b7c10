"""Full disks, full inode tables, read-only places, two launchers: a clear message, and nothing half-written."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_core.data.dataset import Dataset
from tests.conftest import require
from tests.pipeline import copy_until, cxr, losses, run_nano, stage_folder

PREPROCESS = ("--stage", "real")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount small file systems on; unmounted at the end."""
    folder = tmp_path / "small"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", folder], check=False, capture_output=True)


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True, check=False
    )
    require("mount", done.returncode == 0, f"this user may not mount a tmpfs: {done.stderr.strip()}")


@pytest.mark.parametrize(
    ("small", "enough"),
    [("size=200k,nr_inodes=2000", "size=40m"), ("size=40m,nr_inodes=30", "nr_inodes=2000")],
    ids=["bytes", "inodes"],
)
def test_given_a_full_disk_then_it_says_so_and_a_rerun_with_room_finishes(
    small: str, enough: str, nano_config: Path, undisturbed: Path, tmpfs: Path
) -> None:
    mount(tmpfs, small)
    full = cxr("run", nano_config, "--runs", tmpfs, *PREPROCESS)
    assert full.returncode == 2
    assert "No space left on device" in full.stderr
    assert "run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmpfs / "nano" / "real" / "dataset.json").exists()

    subprocess.run(["mount", "-o", f"remount,{enough}", tmpfs], check=True)
    run_nano(nano_config, tmpfs, *PREPROCESS)
    assert stage_folder(tmpfs, "real").facts()["digest"] == stage_folder(undisturbed, "real").facts()["digest"]
    assert list(Dataset.open(tmpfs / "nano" / "real").verify()) == []


def test_given_a_disk_that_fills_in_training_then_it_says_so_and_a_rerun_with_room_finishes(
    nano_config: Path, undisturbed: Path, tmpfs: Path
) -> None:
    mount(tmpfs, "size=6m")
    copy_until(undisturbed, tmpfs, "vae")
    full = cxr("run", nano_config, "--runs", tmpfs, "--stage", "vae")
    assert full.returncode == 2, full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr

    subprocess.run(["mount", "-o", "remount,size=60m", tmpfs], check=True)
    run_nano(nano_config, tmpfs, "--stage", "vae")
    assert losses(stage_folder(tmpfs, "vae")) == losses(stage_folder(undisturbed, "vae"))


def test_given_a_read_only_file_system_then_the_mend_is_another_folder(nano_config: Path, tmpfs: Path) -> None:
    mount(tmpfs, "size=1m,ro")
    done = cxr("run", nano_config, "--runs", tmpfs / "runs", *PREPROCESS)
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert "--runs DIR" in done.stderr


def test_given_two_runs_in_one_folder_at_once_then_the_second_is_refused(first_stage: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "run", str(first_stage), "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        lock = tmp_path / "nano" / ".lock"
        deadline = time.monotonic() + 60
        while not (lock.exists() and lock.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(first.pid, 19)  # SIGSTOP: it holds the run for as long as we look
        second = cxr("run", first_stage, "--runs", tmp_path)
        os.kill(first.pid, 18)
        assert first.wait() == 0
    assert second.returncode == 2
    assert f"another cxr works in this run (pid {first.pid}" in second.stderr
    assert list(Dataset.open(tmp_path / "nano" / "real").verify()) == []


def test_given_another_config_under_an_old_name_then_the_difference_is_shown(
    nano_config: Path, undisturbed: Path
) -> None:
    done = cxr("run", nano_config, "--runs", undisturbed, "stages.real.size=48")
    assert done.returncode == 2
    assert "-  size: 32\n    +  size: 48" in done.stderr


def test_given_a_finished_run_then_running_it_again_says_done(nano_config: Path, undisturbed: Path) -> None:
    done = cxr("run", nano_config, "--runs", undisturbed)
    assert done.returncode == 0
    assert done.stdout.startswith("done: ")
    assert done.stdout.strip().endswith("report.html")


def test_given_a_stage_before_its_input_then_the_error_names_the_stage_to_run(
    nano_config: Path, tmp_path: Path
) -> None:
    done = cxr("run", nano_config, "--runs", tmp_path, "--stage", "vae")
    assert done.returncode == 2
    assert "stage 'real' is not finished, and this stage needs it" in done.stderr
