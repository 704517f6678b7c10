"""A shard that fails: the pack goes on, the failure is recorded, and after three for one cause the shard is parked."""

import errno
import json
import os
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.causes import Stopped
from cxr_core.runs.failures import Failure, ShardsFailedError, failures_of, parked, parking_of, release
from cxr_core.runs.files import read_json
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from tests.stages import fail, tiny_work


def run_all(work: Work) -> None:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)


def last_attempt(work: Work) -> Path:
    return max((work.folder.path / "attempts").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def test_given_a_failing_shard_then_the_others_are_done_and_the_attempt_says_so(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {"00001": fail(ZeroDivisionError("division by zero")), "00003": fail(MemoryError())}
    with pytest.raises(ZeroDivisionError) as caught:
        run_all(work)
    assert "failed: 00001, 00003; the other shards are safe" in caught.value.__notes__[0]
    assert work.folder.done() == {"00000", "00002", "00004"}
    attempt = last_attempt(work)
    ended = read_json(attempt / "ended.json")
    assert (ended["cause"], ended["shards"], ended["failed"]) == ("shards failed", 3, 2)
    assert read_json(attempt / "failed" / "00003.json")["cause"] == "out of memory"
    assert "1 / 0" not in (attempt / "failed" / "00001.txt").read_text()
    assert "raise error" in (attempt / "failed" / "00001.txt").read_text()
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    assert [e["cause"] for e in events if e["what"] == "shard failed"] == ["ZeroDivisionError", "out of memory"]
    assert not (attempt / "work").exists()


def test_given_a_mended_cause_then_a_rerun_makes_only_what_failed(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {"00002": fail(UserError("truncated", where="image7.png", hint="replace it"))}
    with pytest.raises(UserError, match=r"image7\.png: truncated\n  -> replace it\n  -> failed: 00002;"):
        run_all(work)
    job.trouble, job.order = {}, []
    run_all(work)
    assert job.order == ["00002"]
    assert len(work.folder.receipts()) == 5


def test_given_three_failures_for_one_cause_then_the_shard_is_parked_and_named(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {"00002": fail(UserError("no head"))}
    for _ in range(2):
        with pytest.raises(ShardsFailedError) as caught:
            run_all(work)
        assert "parked" not in str(caught.value)
    with pytest.raises(ShardsFailedError, match="parked after 3 failures for the same cause: 00002"):
        run_all(work)
    record = read_json(work.folder.path / "parked" / "00002.json")
    assert (record["format"], record["cause"], len(record["attempts"])) == (1, "refused", 3)

    job.order = []
    with pytest.raises(UserError, match="1 of 5 shards have no receipt: 00002; parked") as told:
        run_all(work)
    assert "tiny 00002` says why; then run with --retry-parked" in str(told.value)
    assert job.order == []

    assert release(work.folder.path) == ["00002"]
    with pytest.raises(ShardsFailedError) as caught:
        run_all(work)
    assert "parked" not in str(caught.value), "a released shard has three tries again"
    job.trouble = {}
    run_all(work)
    assert parked(work.folder.path) == set()


def test_given_failures_for_different_causes_then_the_shard_is_not_parked(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    for error in (KeyError("a"), MemoryError(), TimeoutError(), ValueError("b")):
        job.trouble = {"00000": fail(error)}
        with pytest.raises(type(error)):
            run_all(work)
    assert len(failures_of(work.folder.path, "00000")) == 4
    assert parked(work.folder.path) == set()


def test_given_a_chain_then_it_stops_at_its_failed_shard_and_at_a_parked_one(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny", chain=True)
    job.trouble = {"00002": fail(UserError("the loss is nan", hint="lower learning_rate"))}
    for _ in range(3):
        with pytest.raises(UserError, match="the loss is nan\n  -> lower learning_rate"):
            run_all(work)
    assert job.order == ["00000", "00001", "00002", "00002", "00002"]
    with pytest.raises(UserError, match="3 of 5 shards have no receipt"):
        run_all(work)
    assert len(job.order) == 5


def test_given_the_same_refusal_of_two_shards_then_it_is_of_the_stage_and_counts_against_none(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {f"{i:05d}": fail(UserError("no such model", where="m", hint="give one")) for i in range(5)}
    for _ in range(4):
        with pytest.raises(UserError, match=r"^m: no such model\n  -> give one$"):
            run_all(work)
    assert job.order == ["00000", "00001"] * 4
    assert parked(work.folder.path) == set()
    assert read_json(last_attempt(work) / "ended.json")["cause"] == "refused"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_given_a_machine_that_fails_then_the_pack_ends_at_once(number: int, tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {"00001": fail(OSError(number, os.strerror(number)))}
    with pytest.raises(OSError, match=os.strerror(number)):
        run_all(work)
    assert job.order == ["00000", "00001"]
    assert failures_of(work.folder.path, "00001") == []


def test_given_a_gpu_that_refuses_then_the_pack_ends_and_only_that_shard_has_failed(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    job.trouble = {"00001": fail(RuntimeError("CUDA error: an illegal memory access was encountered"))}
    with pytest.raises(RuntimeError, match="CUDA error"):
        run_all(work)
    assert job.order == ["00000", "00001"]
    assert len(failures_of(work.folder.path, "00001")) == 1


def test_given_an_interrupt_then_the_attempt_ends_with_it(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")

    def interrupt() -> None:
        raise KeyboardInterrupt

    job.trouble = {"00001": interrupt}
    with pytest.raises(KeyboardInterrupt):
        run_all(work)
    assert read_json(last_attempt(work) / "ended.json")["cause"] == "interrupted"


def test_given_an_end_that_is_asked_for_then_the_pack_stops_between_shards_and_nothing_failed(tmp_path: Path) -> None:
    work, job = tiny_work(tmp_path / "run" / "tiny")
    plan = freeze(work)
    job.trouble = {"00001": fail(ValueError("x"))}
    with pytest.raises(Stopped, match="before shard 00003"):
        run_pack(work, plan, [shard.id for shard in plan.shards], must_stop=lambda: len(job.order) == 3)
    assert job.order == ["00000", "00001", "00002"]
    assert read_json(last_attempt(work) / "ended.json")["cause"] == "stopped"
    assert [failure.shard for failure in failures_of(work.folder.path, "00001")] == ["00001"]
    assert failures_of(work.folder.path, "00003") == []


def failed(cause: str, attempt: str) -> Failure:
    return Failure("00003", attempt, cause, f"{cause} in {attempt}", 1.0, "2026-01-01")


@pytest.mark.parametrize(
    ("causes", "forgiven", "parked_for"),
    [
        (["a", "a"], [], None),
        (["a", "b", "a", "a"], [], "a"),
        (["a", "b", "a", "b"], [], None),
        (["a", "a", "a"], ["1"], None),
        (["a", "a", "a", "a"], ["1"], "a"),
        ([], [], None),
    ],
)
def test_three_failures_for_one_cause_since_the_last_release_park_a_shard(
    causes: list[str], forgiven: list[str], parked_for: str | None
) -> None:
    found = parking_of([failed(cause, str(number)) for number, cause in enumerate(causes)], forgiven)
    assert (found.cause if found else None) == parked_for
    if found:
        assert (found.shard, len(found.attempts)) == ("00003", 3)
        assert found.text.endswith(str(len(causes) - 1))
