"""What follows from how attempts ended: shards to park, memory and time to raise, nodes to leave out."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from cxr_core.runs.accounting import Account
from cxr_core.runs.causes import CAUSES, Cause
from cxr_core.runs.facts import StageFacts, TaskEnd, facts_of
from cxr_core.runs.failures import Failure, parked, release
from cxr_core.runs.files import write_json
from cxr_core.runs.follow_up import StageFollowUp, bad_nodes, follow_up
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.run import StageFolder
from cxr_core.runs.submits import Submit, new_folder
from tests.unit.test_outcome import START, accounts_say, lost_attempt, shell_says


def ended(cause: str, name: str = "a", *, outcome: str = "killed", **values: object) -> AttemptRecord:
    """An attempt that ended in the middle of shard 00003."""
    facts = {"node": "n1", "shard": "00003", "cause": cause} | values
    return AttemptRecord("real", name, Path(name), outcome, START, START + 60, **facts)  # type: ignore[arg-type]


def of(facts: StageFacts) -> StageFollowUp:
    return follow_up([facts], time.time()).stages[facts.name]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_three_ends_of_a_cause_in_one_shard_park_it_where_the_table_says_so(cause: Cause) -> None:
    for num_shards in (0, 2):
        thrice = [ended(cause.name, str(number), num_shards=num_shards) for number in range(3)]
        found = of(StageFacts("real", thrice)).park
        assert [parking.shard for parking in found] == (["00003"] if cause.counts_for_parking(num_shards) else [])
        assert not of(StageFacts("real", thrice[:2])).park
        assert not of(StageFacts("real", thrice, done={"00003"})).park
        assert not of(StageFacts("real", thrice, parked={"00003"})).park
        assert not of(StageFacts("real", thrice, forgiven={"00003": {"1"}})).park


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_an_end_of_a_cause_asks_for_more_or_for_another_node_where_the_table_says_so(cause: Cause) -> None:
    facts = StageFacts("real", [ended(cause.name, outcome=cause.outcome)])
    found = follow_up([facts], time.time())
    short = {key: victims for key, victims in found.stages["real"].short.items() if victims}
    assert short == ({cause.change: ["shard 00003"]} if cause.change in ("mem", "time") else {})
    assert found.bad_nodes == ({"n1": cause.name} if cause.change == "node" else {})
    assert not any(of(StageFacts("real", facts.attempts, done={"00003"})).short.values())


def test_given_failures_and_kills_of_one_cause_then_they_count_together() -> None:
    failures = [Failure("00003", f"f{day}", "out of memory", "x", 5.0, f"2026-01-0{day}") for day in (1, 2)]
    (parking,) = of(StageFacts("real", [ended("out of memory")], failures)).park
    assert (parking.cause, list(parking.attempts)) == ("out of memory", ["f1", "f2", "a"])


def test_given_tasks_that_came_to_no_shard_then_jobs_of_their_kind_get_more() -> None:
    tasks = [TaskEnd("7_1", "out of memory", True), TaskEnd("7_2", "time limit", True)]
    facts = StageFacts("real", [ended("signal 9", job="7_2")], tasks=[*tasks, TaskEnd("8", "out of memory", False)])
    found = of(facts)
    assert (found.short, found.control_short) == (
        {"mem": ["task 7_1"], "time": []},
        {"mem": ["job 8"], "time": []},
    )


@pytest.mark.parametrize(
    ("words", "values", "is_parked"),
    [
        (("137 5",) * 3, {}, True),
        (("oom 5",) * 3, {}, True),
        (("137 5", "137 5", "oom 5"), {}, False),
        (("TERM 5",) * 9, {}, False),
        (("timeout 5",) * 3, {}, True),
        (("timeout 5",) * 3, {"shards": 2}, False),
    ],
)
def test_given_kills_in_one_shard_then_it_is_parked_after_three_for_a_cause_that_may_be_its_own(
    words: tuple[str, ...], values: Mapping[str, object], is_parked: bool, tmp_path: Path
) -> None:
    folder = StageFolder(tmp_path / "real")
    for number, word in enumerate(words):
        lost_attempt(folder.path, f"{number}_0", **values)
        shell_says(folder.path, f"{number}_0-0.end", word)
    found = of(facts_of(folder)).park
    assert [parking.shard for parking in found] == (["00003"] if is_parked else [])
    for parking in found:
        parking.write(folder.path)
    assert parked(folder.path) == ({"00003"} if is_parked else set())
    assert not of(facts_of(folder)).park
    release(folder.path)
    assert not of(facts_of(folder)).park, "after a release it has three tries again"


def test_given_a_task_out_of_memory_before_its_first_shard_then_it_is_found_by_its_shell_or_the_accounts(
    tmp_path: Path,
) -> None:
    stage = tmp_path / "real"
    Submit("x", "real", ("shards",), 2, "site", "/", raised={"mem": "40G"}).write(new_folder(stage))
    shell_says(stage, "7_1-0.end", "oom 5")
    for task in ("7_1", "7_2"):
        shell_says(stage, f"{task}.out", "slurmstepd: error: Exceeded job memory limit")
    accounts_say(tmp_path, Account("7_2", "TIMEOUT", 1.0, 2.0), Account("9_9", "TIMEOUT", 1.0, 2.0))
    found = of(facts_of(StageFolder(stage)))
    assert found.short == {"mem": ["task 7_1"], "time": ["task 7_2"]}
    assert not any(found.control_short.values())
    assert (found.facts.raised, found.facts.control_raised) == ({"mem": "40G"}, {})


def test_given_a_job_out_of_memory_while_it_finalizes_then_its_like_get_more_and_those_of_shards_do_not(
    tmp_path: Path,
) -> None:
    stage = tmp_path / "real"
    Submit("x", "real", ("finalize",), 1, "site", "/").write(new_folder(stage))
    shell_says(stage, "8-0.end", "oom 5")
    shell_says(stage, "8.out", "slurmstepd: error: Exceeded job memory limit")
    found = of(facts_of(StageFolder(stage)))
    assert found.control_short["mem"] == ["job 8"]
    assert not any(found.short.values())


@pytest.mark.parametrize(("text", "counts"), [("MemoryError", True), ("CUDA out of memory. Tried ...", False)])
def test_given_a_shard_that_said_itself_that_memory_ran_out_then_it_counts_unless_it_is_of_a_gpu(
    text: str, counts: bool, tmp_path: Path
) -> None:
    attempt = tmp_path / "real" / "attempts" / "a"
    (attempt / "failed").mkdir(parents=True)
    write_json(attempt / "ended.json", {"cause": "shards failed", "started": START, "failed": 1})
    failure = Failure("00003", "a", "out of memory", text, 5.0, "2026-01-01")
    write_json(attempt / "failed" / "00003.json", vars(failure))
    assert of(facts_of(StageFolder(tmp_path / "real"))).short["mem"] == (["shard 00003"] if counts else [])


def test_given_a_task_that_came_back_without_a_word_of_its_shell_then_its_node_is_bad(tmp_path: Path) -> None:
    lost_attempt(tmp_path, "7_1")
    lost_attempt(tmp_path, "7_1", 1, age=1, node="n2")
    assert bad_nodes(read_attempts(tmp_path), time.time()) == {"n1": "node failure"}


def test_a_broken_node_is_left_out_until_an_attempt_finished_there_or_a_day_has_passed() -> None:
    broken = AttemptRecord("a", "x", Path("x"), "failed", START, START + 9, "read-only file system", node="n1")
    cuda = AttemptRecord("a", "y", Path("y"), "failed", START, START + 9, node="n2", detail="CUDA error: x")
    beside = AttemptRecord("a", "z", Path("z"), "done", START, START + 99, node="n1")
    later = AttemptRecord("a", "z", Path("z"), "done", START + 50, START + 99, node="n1")
    old = AttemptRecord("a", "w", Path("w"), "lost", 0, 1, "node failure", node="n3")
    assert bad_nodes([broken, cuda, old, beside], time.time()) == {"n1": "read-only file system", "n2": "CUDA error"}
    assert bad_nodes([broken, cuda, later], time.time()) == {"n2": "CUDA error"}


def test_given_a_task_that_ended_well_before_a_node_died_then_the_node_is_bad_all_the_same() -> None:
    def attempt(
        name: str, outcome: Literal["lost", "done"], begin: float, end: float, node: str, job: str
    ) -> AttemptRecord:
        cause = "node failure" if outcome == "lost" else "finished"
        return AttemptRecord("a", name, Path(name), outcome, START + begin, START + end, cause, node=node, job=job)

    lost, again = attempt("x", "lost", 0, 5, "n1", "7_2"), attempt("y", "done", 100, 110, "n2", "7_2")
    before, after = (attempt(f"z{begin}", "done", begin, begin + 20, "n1", "7_3") for begin in (10, 120))
    assert bad_nodes([lost, again, before], time.time()) == {"n1": "node failure"}
    assert bad_nodes([lost, again, before, after], time.time()) == {}
