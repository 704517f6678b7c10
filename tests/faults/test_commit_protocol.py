"""The commit protocol under two real writers: any interleaving, and a kill -9 between any two file operations."""

import os
import shutil
import signal
import sys
import tempfile
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.runs.commit import Commit, commit, place, sweep
from cxr_core.runs.files import sha256_path
from cxr_core.runs.pack import finalize, freeze, run_pack
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import Run
from cxr_core.runs.verify import verify_stage
from tests.stages import tiny_work

FILE_OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def is_of(folder: Path, event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an audited call changes or reads a file of `folder`: what is reached by a handle has a name alone. A
    folder that is only opened on the way changes nothing."""
    name, flags = str(arguments[0]), arguments[2] if event == "open" else 0
    if event not in FILE_OPERATIONS or (isinstance(flags, int) and flags & os.O_DIRECTORY):
        return False
    return name.startswith(str(folder)) or "/" not in name


def changes(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether it may change the disk: a crash before a read leaves what a crash before the next change does."""
    flags = arguments[2] if event == "open" else os.O_WRONLY
    return not isinstance(flags, int) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def write_shard(stage: Path, attempt: str, content: bytes) -> Commit:
    """What every attempt does with the shard it has made: one file and one folder, placed, then committed."""
    work = stage / "attempts" / attempt / "work"
    (work / "x.state").mkdir(parents=True)
    (work / "x.tar").write_bytes(content)
    (work / "x.state" / "part").write_bytes(content)
    data = place(stage, "00000", attempt, {"tar": work / "x.tar", "state": work / "x.state"})
    receipt = Receipt("00000", digest=content.hex(), data=data, plan="p", attempt=attempt, seed=0)
    return commit(stage, receipt, is_alive=lambda other: False)


def gated_writer(stage: Path, attempt: str, content: bytes, gate: Connection, no_links: bool) -> None:
    """A writer that stops before each file operation below `stage` until it is let on, or killed."""

    def before(event: str, arguments: tuple[object, ...]) -> None:
        if is_of(stage, event, arguments):
            gate.send(event)
            gate.recv()
            if no_links and event == "os.link":
                raise PermissionError(1, "this file system has no hard links")

    sys.addaudithook(before)
    write_shard(stage, attempt, content)
    os._exit(0)


class Writer:
    """A gated writer in a process of its own."""

    def __init__(self, stage: Path, attempt: str, content: bytes, no_links: bool) -> None:
        context = get_context("fork")
        self.gate, theirs = context.Pipe()
        self.process = context.Process(
            target=gated_writer, args=(stage, attempt, content, theirs, no_links), daemon=True
        )
        self.process.start()
        theirs.close()

    def step(self) -> bool:
        """Let it do one file operation. False once it has ended."""
        try:
            self.gate.recv()
            self.gate.send("go")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def finish(self) -> None:
        while self.step():
            pass
        self.process.join()
        assert self.process.exitcode in (0, -signal.SIGKILL)


def check_invariants(stage: Path) -> Receipt | None:
    """A receipt is whole, and all that it names is there with the recorded content."""
    path = stage / "receipts" / "00000.json"
    if not path.exists():
        return None
    receipt = Receipt.read(path)
    for data in receipt.data:
        assert sha256_path(stage / "shards" / data.name) == data.sha256
    return receipt


SCHEDULES = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["step"] * 9 + ["kill"])), max_size=60)


@pytest.mark.parametrize("no_links", [False, True], ids=["links", "no links"])
@settings(max_examples=60, deadline=None)
@given(schedule=SCHEDULES, same=st.booleans(), everyone_dies=st.booleans())
def test_given_two_writers_and_crashes_anywhere_then_one_whole_receipt_stands(
    no_links: bool, schedule: list[tuple[int, str]], same: bool, everyone_dies: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        writers = [
            Writer(stage, "one", b"content", no_links),
            Writer(stage, "two", b"content" if same else b"other", no_links),
        ]
        seen = None
        for who, action in schedule:
            writers[who].step() if action == "step" else writers[who].kill()
            now = check_invariants(stage)
            # Without links a claim of a dead attempt is succeeded, and here every attempt is called dead.
            assert no_links or seen is None or now == seen, "a published receipt was replaced"
            seen = now
        for writer in writers:
            writer.kill() if everyone_dies else writer.finish()
        standing = check_invariants(stage)

        resumed = write_shard(stage, "three", b"content")

        receipt = check_invariants(stage)
        assert receipt is not None
        if standing is None:
            assert resumed.outcome == "committed"
            assert receipt.attempt == "three"
        else:
            assert receipt == standing
            assert resumed.outcome == ("duplicate" if standing.digest == b"content".hex() else "differs")
        sweep(stage, [receipt])
        assert {entry.name for entry in (stage / "shards").iterdir()} == {data.name for data in receipt.data}


def test_given_every_single_crash_point_then_a_rerun_commits(tmp_path: Path) -> None:
    """One writer, killed before its k-th file operation, for every k until it ends by itself."""
    k = 0
    while True:
        stage = tmp_path / str(k)
        stage.mkdir()
        writer = Writer(stage, "one", b"content", no_links=False)
        ended = not all(writer.step() for _ in range(k))
        writer.kill()
        before = check_invariants(stage)
        outcome = write_shard(stage, "two", b"content").outcome
        assert outcome == ("committed" if before is None else "duplicate")
        assert check_invariants(stage) is not None
        if ended:
            break
        k += 1
    assert k > 10, "the writer was expected to do more than ten file operations"


def do_stage(folder: Path) -> None:
    """A whole stage of three shards: its plan, its shards, its end."""
    work, _ = tiny_work(folder, 3)
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)


def do_stage_and_die(folder: Path, last: int) -> None:
    """The same, by a process that is killed before the change number `last` that it makes to a file."""
    num_seen = 0

    def before(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal num_seen
        if is_of(folder, event, arguments) and changes(event, arguments):
            if num_seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
            num_seen += 1

    sys.addaudithook(before)
    do_stage(folder)
    os._exit(0)


def test_given_a_crash_before_each_change_that_a_stage_makes_then_a_rerun_finishes_it(
    tmp_path: Path,
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    do_stage(undisturbed)
    facts = tiny_work(undisturbed, 3)[0].folder.facts()
    assert facts is not None
    for last in range(1000):
        shutil.rmtree(disturbed, ignore_errors=True)
        disturbed.mkdir()
        process = get_context("fork").Process(target=do_stage_and_die, args=(disturbed, last))
        process.start()
        process.join()
        do_stage(disturbed)
        folder = tiny_work(disturbed, 3)[0].folder
        assert (folder.facts() or {})["digest"] == facts["digest"]
        assert folder.done() == {"00000", "00001", "00002"}
        assert verify_stage(Run(tmp_path, {"stages": []}), {"name": "disturbed"}).findings == ()
        if process.exitcode == 0:
            break
    assert last > 50, "a stage was expected to make more than fifty changes"


def test_given_a_stage_finished_meanwhile_with_another_result_then_a_late_writer_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    late, job = tiny_work(tmp_path / "stage", 3)
    plan = freeze(late)
    ids = [shard.id for shard in plan.shards]

    def finish_elsewhere() -> None:
        first, other = tiny_work(tmp_path / "stage", 3)
        other.words = "as another GPU says it"
        run_pack(first, plan, ids)
        finalize(first, plan)

    job.trouble = {"00001": finish_elsewhere}
    run_pack(late, plan, ids)
    assert verify_stage(Run(tmp_path, {"stages": []}), {"name": "stage"}).findings == ()
