"""The Debian base: what is emptied, what its cached copy is named by."""

import os
from pathlib import Path

import pytest

from containers import base
from cxr_core.errors import UserError


def test_emptying_a_dev_folder_removes_links_to_folders_and_keeps_what_they_lead_to(tmp_path: Path) -> None:
    dev, elsewhere = tmp_path / "dev", tmp_path / "elsewhere"
    (dev / "pts" / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (dev / "fd").symlink_to(elsewhere)  # as a new debootstrap makes dev/fd
    (dev / "stdin").symlink_to("nowhere")
    (dev / ".hidden").touch()
    os.mkfifo(dev / "pipe")
    base.empty(dev)
    assert list(dev.iterdir()) == []
    assert (elsewhere / "kept").exists()


def test_a_cached_base_is_named_by_all_that_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.recipe_sha256()
    assert base.recipe_sha256() == before
    assert base.recipe_sha256((*base.PACKAGES, "git")) != before
    monkeypatch.setattr(base, "codename", lambda: "another")
    assert base.recipe_sha256() != before


def test_given_a_folder_that_is_there_then_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="already there"):
        base.make_base(tmp_path)
    assert (tmp_path / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a Debian system")
def test_given_a_debootstrap_that_fails_or_is_missing_then_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(base, "SBIN", "")
    with pytest.raises(UserError, match="no debootstrap"):
        base.make_base(tmp_path / "made", "bookworm")
    program = programs / "debootstrap"
    program.write_text('#!/bin/sh\n/bin/mkdir -p "$4/half"\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(UserError, match="debootstrap failed"):
        base.make_base(tmp_path / "made", "bookworm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
