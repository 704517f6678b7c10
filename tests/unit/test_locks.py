"""A lock file: held by one process at a time, let go with its end, and never another thing than a file of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_core.runs.door import BadFileError, Place
from cxr_core.runs.locks import hold, open_lock

HOLDER = """
import sys, time
from pathlib import Path
from cxr_core.runs.door import Place
from cxr_core.runs.locks import hold, open_lock
with open_lock(Place(Path(sys.argv[1])), ".lock") as lock:
    assert hold(lock)
    print("held", flush=True)
    time.sleep(60)
"""


def test_given_a_holder_who_is_killed_then_the_next_one_has_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, open_lock(Place(tmp_path), ".lock") as lock:
        assert holder.stdout.readline() == "held\n"
        assert not hold(lock)
        holder.kill()
        assert hold(lock, wait=True)


def test_given_a_lock_that_was_let_go_then_its_file_stays_for_those_who_wait_for_it(tmp_path: Path) -> None:
    for _ in range(2):
        with open_lock(Place(tmp_path), ".lock") as lock:
            assert hold(lock)
            number = os.fstat(lock).st_ino
        assert (tmp_path / ".lock").stat().st_ino == number


@pytest.mark.parametrize("kind", ["link", "second name", "folder", "pipe"])
def test_given_another_thing_in_the_place_of_a_lock_then_it_is_named_and_not_touched(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / ".lock"
    victim.write_text("kept")
    make = {"link": path.symlink_to, "second name": path.hardlink_to}
    if kind in make:
        make[kind](victim)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(BadFileError, match=r"\.lock"), open_lock(Place(tmp_path), ".lock"):
        pass
    assert victim.read_text() == "kept"
