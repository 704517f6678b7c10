"""The commit of a shard, a step at a time: placing, the link, the claim where there are no links, sweeping, pruning.

Two real writers and crashes between any two calls are in tests/faults/test_commit_protocol.py.
"""

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs import commit as protocol
from cxr_core.runs.commit import commit, place, prune, sweep
from cxr_core.runs.door import LONGEST_NAME
from cxr_core.runs.receipt import Data, Receipt


def made(folder: Path, content: bytes, name: str = "x.tar") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def made_folder(folder: Path, content: bytes) -> Path:
    made(folder / "x.state" / "deep", content, "part")
    made(folder / "x.state", b"12", "more")
    return folder / "x.state"


def receipt_of(attempt: str, digest: str = "d", data: tuple[Data, ...] = ()) -> Receipt:
    return Receipt("00000", digest, data, "p", attempt, 0)


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def nobody(attempt: str) -> bool:
    raise AssertionError(f"nobody was to ask whether {attempt} lives")


def dead(attempt: str) -> bool:
    return False


# Placing


def test_given_a_file_when_placed_then_its_name_says_shard_and_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    (data,) = place(tmp_path, "00000", "one", {"tar": made(tmp_path / "work", b"content")})
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert data == Data("tar", f"00000-{sha256[:12]}.tar", 7, sha256)
    assert (tmp_path / "shards" / data.name).read_bytes() == b"content"
    assert names_in(tmp_path / "shards") == {data.name}
    assert names_in(tmp_path / "work") == set()


def test_given_a_folder_when_placed_then_it_is_whole_and_its_bytes_are_those_of_its_files(tmp_path: Path) -> None:
    (data,) = place(tmp_path, "00000", "one", {"state": made_folder(tmp_path / "work", b"content")})
    assert data.name == f"00000-{data.sha256[:12]}.state"
    assert data.bytes == 9
    assert (tmp_path / "shards" / data.name / "deep" / "part").read_bytes() == b"content"


@pytest.mark.parametrize("make", [made, made_folder])
def test_given_the_same_content_twice_then_it_lies_there_once(tmp_path: Path, make: Callable[..., Path]) -> None:
    first = place(tmp_path, "00000", "one", {"a": make(tmp_path / "work1", b"content")})
    again = place(tmp_path, "00000", "two", {"a": make(tmp_path / "work2", b"content")})
    assert again == first
    assert names_in(tmp_path / "shards") == {first[0].name}


def test_given_a_folder_of_that_name_with_other_content_then_it_is_not_taken_for_ours(tmp_path: Path) -> None:
    (data,) = place(tmp_path, "00000", "one", {"state": made_folder(tmp_path / "work1", b"content")})
    (tmp_path / "shards" / data.name / "deep" / "part").write_bytes(b"damaged")
    with pytest.raises(OSError, match=data.name):
        place(tmp_path, "00000", "two", {"state": made_folder(tmp_path / "work2", b"content")})


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`, from which no rename is possible."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("the folder of temporary files is in memory too")
        yield Path(folder)


@pytest.mark.parametrize("make", [made, made_folder])
def test_given_data_on_another_disk_then_they_are_copied_and_gone_from_there(
    tmp_path: Path, other_disk: Path, make: Callable[..., Path]
) -> None:
    near = place(tmp_path / "near", "00000", "one", {"a": make(tmp_path / "work", b"content")})
    far = place(tmp_path / "far", "00000", "one", {"a": make(other_disk, b"content")})
    assert far == near
    assert names_in(tmp_path / "far" / "shards") == {near[0].name}
    assert names_in(other_disk) == set()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_given_a_link_among_the_data_then_it_is_refused_and_not_followed(
    tmp_path: Path, other_disk: Path, elsewhere: bool
) -> None:
    folder = made_folder(other_disk if elsewhere else tmp_path / "work", b"content")
    (folder / "link").symlink_to(made(tmp_path / "secret", b"secret"))
    with pytest.raises(UserError, match=r"\.00000\.one\.state\.tmp/link: a link where a file must be"):
        place(tmp_path, "00000", "one", {"state": folder})
    assert not [
        path
        for path in (tmp_path / "shards").rglob("*")
        if not path.is_symlink() and path.is_file() and b"secret" in path.read_bytes()
    ]


def test_given_data_that_are_not_there_then_the_error_is_the_systems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        place(tmp_path, "00000", "one", {"tar": tmp_path / "missing.tar"})


# The link


def test_given_a_first_receipt_then_it_stands_and_only_it(tmp_path: Path) -> None:
    receipt = receipt_of("one")
    assert commit(tmp_path, receipt, is_alive=nobody) == protocol.Commit("committed", receipt)
    assert Receipt.read(tmp_path / "receipts" / "00000.json") == receipt
    assert names_in(tmp_path / "receipts") == {"00000.json"}


@pytest.mark.parametrize(("digest", "outcome"), [("d", "duplicate"), ("e", "differs")])
def test_given_a_later_attempt_then_the_first_stands_and_the_outcome_says_whether_it_is_the_same(
    tmp_path: Path, digest: str, outcome: str
) -> None:
    commit(tmp_path, receipt_of("one"), is_alive=nobody)
    assert commit(tmp_path, receipt_of("two", digest), is_alive=nobody) == protocol.Commit(outcome, receipt_of("one"))
    assert names_in(tmp_path / "receipts") == {"00000.json"}


def test_given_the_same_attempt_again_then_what_stands_is_its_own(tmp_path: Path) -> None:
    commit(tmp_path, receipt_of("one"), is_alive=nobody)
    assert commit(tmp_path, receipt_of("one", "e"), is_alive=nobody).outcome == "committed"


def test_given_a_leftover_of_a_killed_writer_then_it_is_written_anew(tmp_path: Path) -> None:
    made(tmp_path / "receipts", b"half a rec", ".00000.one.tmp")
    assert commit(tmp_path, receipt_of("one"), is_alive=nobody).outcome == "committed"
    assert Receipt.read(tmp_path / "receipts" / "00000.json") == receipt_of("one")


def test_given_a_file_system_that_calls_our_own_link_a_collision_then_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def retransmitted(*names: str, **options: int) -> None:
        link(*names, **options)
        raise FileExistsError(errno.EEXIST, "as NFS says when its first answer was lost")

    monkeypatch.setattr(os, "link", retransmitted)
    assert commit(tmp_path, receipt_of("one"), is_alive=nobody).outcome == "committed"


def test_given_another_failure_of_the_link_then_it_is_raised_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="no link"):
        commit(tmp_path, receipt_of("one"), is_alive=nobody)
    assert names_in(tmp_path / "receipts") == set()


# The claim, on file systems without links


def without_links(monkeypatch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    """Be on a file system that refuses hard links."""

    def refused(*names: str, **options: int) -> None:
        raise OSError(number, "no link")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EMLINK"])
def test_given_no_links_then_a_claim_that_names_the_attempt_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_links(monkeypatch, getattr(errno, name))
    assert commit(tmp_path, receipt_of("one"), is_alive=nobody) == protocol.Commit("committed", receipt_of("one"))
    assert names_in(tmp_path / "receipts") == {"00000.json", "00000.0.claim"}
    assert (tmp_path / "receipts" / "00000.0.claim").read_text() == "one"
    assert commit(tmp_path, receipt_of("two"), is_alive=nobody).outcome == "duplicate"


def test_given_claims_of_the_dead_then_the_next_one_succeeds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    asked = []
    for number, name in enumerate(["gone", "lost"]):
        made(tmp_path / "receipts", name.encode(), f"00000.{number}.claim")
    outcome = commit(tmp_path, receipt_of("one"), is_alive=lambda other: bool(asked.append(other))).outcome
    assert (outcome, asked) == ("committed", ["gone", "lost"])
    assert (tmp_path / "receipts" / "00000.2.claim").read_text() == "one"


def test_given_a_claim_of_its_own_from_before_a_crash_then_nobody_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    made(tmp_path / "receipts", b"one", "00000.0.claim")
    assert commit(tmp_path, receipt_of("one"), is_alive=nobody).outcome == "committed"


def test_given_a_live_claimant_then_it_is_waited_for_and_its_receipt_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    made(tmp_path / "receipts", b"two", "00000.0.claim")
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            (tmp_path / "receipts" / "00000.json").write_text(receipt_of("two").to_json())

    monkeypatch.setattr(time, "sleep", sleep)
    found = commit(tmp_path, receipt_of("one"), is_alive=lambda other: other == "two")
    assert found == protocol.Commit("duplicate", receipt_of("two"))
    assert waited == [1.0] * 3


def test_given_a_claim_without_a_name_then_it_is_waited_for_for_five_seconds_and_then_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    touched = 1_000_000_000.0
    os.utime(made(tmp_path / "receipts", b"", "00000.0.claim"), (touched, touched))
    now = [touched + 3]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    assert commit(tmp_path, receipt_of("one"), is_alive=nobody).outcome == "committed"
    assert now == [touched + 5], "it was looked at each second"


@pytest.mark.parametrize(("content", "name"), [(b"\xffgone", "\ufffdgone"), (b"x" * 10_000, "x" * LONGEST_NAME)])
def test_given_a_claim_that_names_no_attempt_then_it_is_asked_for_in_a_bounded_text_and_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
) -> None:
    without_links(monkeypatch)
    asked: list[str] = []
    made(tmp_path / "receipts", content, "00000.0.claim")
    found = commit(tmp_path, receipt_of("one"), is_alive=lambda other: bool(asked.append(other)))
    assert (found.outcome, asked) == ("committed", [name])


@pytest.mark.parametrize("name", ["00000.json", "00000.1.claim"])
def test_given_one_who_was_faster_between_our_look_and_our_claim_then_nothing_of_its_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_links(monkeypatch)
    system_open = os.open

    def opened(path: str, *flags: int, **options: int) -> int:
        if path == "00000.0.claim":
            made(tmp_path / "receipts", receipt_of("two", "e").to_json().encode(), name)
        return system_open(path, *flags, **options)

    monkeypatch.setattr(os, "open", opened)
    if name == "00000.json":
        found = commit(tmp_path, receipt_of("one"), is_alive=nobody)
        assert found == protocol.Commit("differs", receipt_of("two", "e"))
    else:
        with pytest.raises(FileNotFoundError):
            commit(tmp_path, receipt_of("one"), is_alive=nobody)
        assert not (tmp_path / "receipts" / "00000.json").exists(), "whoever took the next claim writes it"


# What is removed


def test_given_data_that_no_receipt_names_then_sweeping_removes_these_alone(tmp_path: Path) -> None:
    kept = place(tmp_path, "00000", "one", {"tar": made(tmp_path / "work", b"content")})
    made(tmp_path / "shards", b"", ".00001.two.tar.tmp")
    made_folder(tmp_path / "shards", b"of a lost race")
    assert sorted(sweep(tmp_path, [receipt_of("one", data=kept)])) == [".00001.two.tar.tmp", "x.state"]
    assert names_in(tmp_path / "shards") == {kept[0].name}


def test_given_a_keep_rule_when_pruned_then_only_those_roles_go_and_the_record_names_them(tmp_path: Path) -> None:
    paths = {"state": made_folder(tmp_path / "work", b"content"), "tar": made(tmp_path / "work", b"more")}
    data = place(tmp_path, "00000", "a", paths)
    receipt = commit(tmp_path, receipt_of("a", data=data), is_alive=nobody).receipt
    assert prune(tmp_path, receipt, ["state"], "keep rule") == 9
    record = json.loads((tmp_path / "pruned" / "00000.json").read_text())
    assert record == {"shard": "00000", "why": "keep rule", "data": [data[0].name]}
    assert names_in(tmp_path / "shards") == {data[1].name}


def test_given_a_run_whose_folder_is_a_link_then_all_of_it_works(tmp_path: Path) -> None:
    (tmp_path / "real" / "stage").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    stage = tmp_path / "link" / "stage"
    data = place(stage, "00000", "one", {"tar": made(tmp_path / "work", b"content")})
    receipt = commit(stage, receipt_of("one", data=data), is_alive=nobody).receipt
    assert sweep(stage, [receipt]) == []
    assert prune(stage, receipt, ["tar"], "keep rule") == 7
    assert names_in(stage / "shards") == set()
