"""A run folder that a group shares: real users, real groups, real umasks. Each command as each of them types it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.people import GROUP, OTHER_GROUP, Person, common_folder, need_people

CONFIG = """\
name: tiny
stages:
  - {name: real, kind: preprocess, threads: 1, size: 32, shard_size: 4, data: {kind: phantom, num_images: 8, size: 64}}
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of a group, where what is made is the group's."""
    need_people()
    with common_folder(0o2770) as folder:
        yield folder


def config(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG)
    path.chmod(0o644)
    return path


def modes(folder: Path) -> dict[str, tuple[int, int]]:
    """Mode and group of each thing below."""
    found = [(path, path.lstat()) for path in (folder, *folder.rglob("*"))]
    return {str(path.relative_to(folder)): (stat.S_IMODE(state.st_mode), state.st_gid) for path, state in found}


def test_given_umask_002_then_each_member_goes_on_with_the_others_run(shared: Path) -> None:
    ann, bob = (Person(uid, GROUP, umask=0o002) for uid in (54001, 54002))
    made = ann.cxr("run", config(shared), "--runs", shared)
    assert made.returncode == 0, made.stderr
    odd = {
        name: f"{mode:o} of {group}"
        for name, (mode, group) in modes(shared / "tiny").items()
        if group != GROUP or mode & 0o007 & ~0o005 or mode & 0o660 != 0o660
    }
    assert odd == {}

    data = next((shared / "tiny" / "real" / "shards").glob("00000-*"))
    data.write_bytes(b"damaged")
    for done in bob.all_cxr(("verify", shared / "tiny", "--repair"), ("run", config(shared), "--runs", shared)):
        assert done.returncode == 0, done.stderr
    cleared, verified = ann.all_cxr(("gc", shared / "tiny", "--yes"), ("verify", shared / "tiny"))
    assert cleared.returncode == 0, cleared.stderr
    assert "removed" in cleared.stdout
    assert not list((shared / "tiny" / "real").glob("quarantine/*"))
    assert verified.returncode == 0, verified.stderr


def test_given_a_lock_that_only_its_owner_may_write_then_another_member_can_hold_it(shared: Path) -> None:
    ann, bob = (Person(uid, GROUP, umask=0o002) for uid in (54001, 54002))
    hold = (
        "import sys; from pathlib import Path; from cxr_core.runs.run import _lock\nwith _lock(Path(sys.argv[1])): pass"
    )
    assert ann.python("-c", hold, shared / "tiny").returncode == 0
    (shared / "tiny" / ".lock").chmod(0o644)
    held = bob.python("-c", hold, shared / "tiny")
    assert held.returncode == 0, held.stderr


def test_given_umask_027_then_the_group_reads_and_is_told_what_it_may_not_do(shared: Path) -> None:
    ann, bob, eve = Person(54001, umask=0o027), Person(54002, umask=0o027), Person(54003, OTHER_GROUP)
    assert ann.cxr("run", config(shared), "--runs", shared).returncode == 0
    run = shared / "tiny"
    assert {name: f"{mode:o}" for name, (mode, _) in modes(run).items() if mode & 0o027 or not mode & 0o040} == {}
    before = modes(run)

    page = shared / "bobs.html"
    commands = (
        ("status", run),
        ("verify", run),
        ("logs", run),
        ("gc", run),
        ("report", run, "--out", page),
        ("plan", config(shared), "--runs", shared),
        ("plan", config(shared), "--runs", shared, "--cluster", "generic"),
        ("data", "verify", run / "real"),
    )
    for words, done in zip(commands, bob.all_cxr(*commands), strict=True):
        assert done.returncode == 0, (words, done.stderr)
    assert page.stat().st_uid == bob.uid
    assert stat.S_IMODE(page.stat().st_mode) == 0o640
    assert modes(run) == before

    changing: dict[tuple[str | Path, ...], str] = {
        ("report", run): "--out FILE",
        ("verify", run, "--repair"): "write",
        ("gc", run, "--yes"): "write",
        ("run", config(shared), "--runs", shared): "write",
        ("resume", run, "--cluster", "local"): "write",
    }
    for (words, told), refused in zip(changing.items(), bob.all_cxr(*changing), strict=True):
        assert refused.returncode == 2, (words, refused.stdout)
        assert told in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert modes(run) == before

    for refused in eve.all_cxr(("status", run), ("report", run, "--out", "/tmp/eves.html")):
        assert refused.returncode == 2
        assert "ask for the right" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_that_a_stage_writes_has_the_rights_that_the_umask_leaves(umask: int) -> None:
    need_people()
    with common_folder(0o777) as folder:
        person = Person(54001, umask=umask)
        run = ("run", config(folder), "--runs", folder)
        for done in person.all_cxr(run, ("data", "browse", folder / "tiny" / "real", "--out", folder / "page")):
            assert done.returncode == 0, done.stderr
        for path in (folder / "tiny", *(folder / "tiny").rglob("*"), *(folder / "page").rglob("*")):
            whole = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.lstat().st_mode) == whole & ~umask, path


def test_no_stage_writes_a_file_that_is_more_private_than_its_umask_says(undisturbed: Path) -> None:
    """Of all stages: files of temporary names are private by default, and their final names must not be."""
    umask = os.umask(0o022)
    os.umask(umask)
    for path in (undisturbed / "nano").rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.lstat().st_mode) == whole & ~umask, path
