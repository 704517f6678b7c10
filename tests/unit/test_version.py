"""The version of a release stands in one place, and what names it agrees; every receipt has it, and the commit."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import cxr_core
from cxr_core.runs import code
from cxr_core.runs.pack import freeze, run_pack
from cxr_core.runs.receipt import Receipt
from jobs.cli import app
from tests.conftest import REPOSITORY
from tests.stages import tiny_work


def last_release() -> tuple[str, str]:
    """Version and date of the newest release that CHANGELOG.md names."""
    found = re.search(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
    assert found, "CHANGELOG.md has no heading `## X.Y.Z - YYYY-MM-DD`"
    return found[1], found[2]


def test_the_version_is_that_of_the_last_release_in_the_changelog_and_in_the_citation() -> None:
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (cxr_core.__version__, *last_release()) == (cited["version"], cited["version"], str(cited["date-released"]))


def test_given_the_option_version_then_release_and_commit_are_said_and_nothing_else_is_asked_for() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout == f"cxr {cxr_core.__version__}, commit {code.Code.here().commit or 'unknown'}\n"


def test_given_a_shard_made_in_a_checkout_then_its_receipt_has_version_and_commit(tmp_path: Path) -> None:
    work, _ = tiny_work(tmp_path / "run" / "tiny", 1)
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    (receipt,) = work.folder.receipts()
    assert receipt.version == cxr_core.__version__
    assert receipt.commit == code.Code.here().commit
    head = code.git(REPOSITORY, "rev-parse", "HEAD")
    assert receipt.commit.removesuffix("+") == head


def test_given_a_receipt_of_before_then_it_is_read_and_names_neither(tmp_path: Path) -> None:
    record = json.loads(Receipt("00000", "d", (), "p", "a", 0).to_json())
    del record["version"], record["commit"]
    path = tmp_path / "receipts" / "00000.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    receipt = Receipt.read(path)
    assert (receipt.version, receipt.commit) == ("", "")


@pytest.mark.parametrize(
    ("direct_url", "commit"),
    [
        ({"url": "U", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}, "c" * 40),
        ({"url": "U", "dir_info": {"editable": True}}, ""),
        (None, ""),
    ],
)
def test_given_an_installed_package_then_its_commit_is_what_pip_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_url: object, commit: str
) -> None:
    monkeypatch.delenv("CXR_GIT_SHA", raising=False)
    installed = tmp_path / "cxr_suite-0.2.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: cxr-suite\nVersion: 0.2.0\n")
    if direct_url:
        (installed / "direct_url.json").write_text(json.dumps(direct_url))
    assert code.commit_of(tmp_path) == commit


def test_given_a_clone_without_history_or_tags_then_its_commit_is_known(tmp_path: Path) -> None:
    def git(*words: str | Path) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet", tmp_path / "one")
    for text in ("first", "second"):
        git("-C", tmp_path / "one", "commit", "--quiet", "--allow-empty", "-m", text)
    git("clone", "--quiet", "--depth", "1", "--no-tags", f"file://{tmp_path}/one", tmp_path / "two")
    assert code.commit_of(tmp_path / "two") == git("-C", tmp_path / "one", "rev-parse", "HEAD")


def test_given_an_image_then_the_commit_is_what_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_GIT_SHA", "e" * 40)
    assert code.commit_of(tmp_path) == "e" * 40
