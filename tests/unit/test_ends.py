"""What killed an attempt, by its shell, its log and the accounts; and what a resume does about it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_core.runs.accounting import Accounting, Life, compare
from cxr_core.runs.failures import Failure, parked, release
from cxr_core.runs.files import write_json
from cxr_core.runs.kills import park_killers
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.plan import Plan, slices
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.submits import Submit, new_folder
from jobs.left import possible
from slurm.accounting import parse
from slurm.changes import bad_nodes, excluding, raised, raised_for_control
from slurm.packs import Job, StageWork, plan_jobs
from slurm.profile import ClusterProfile, Resources

START = time.time() - 3600


def lost_attempt(stage: Path, job: str, restart: int = 0, *, age: float = 600, **values: object) -> None:
    """An attempt on another machine of which nothing is heard any more."""
    beat = {"time": time.time() - age, "started": START + 100 * restart, "host": "elsewhere", "pid": 1, "node": "n1"}
    name = f"{job}-{restart}-{len(list(stage.glob('attempts/*'))):06x}"
    (stage / "attempts" / name).mkdir(parents=True)
    facts = {"job": job, "restart": str(restart), "shard": "00003", "since": START + 100 * restart}
    write_json(stage / "attempts" / name / "heartbeat.json", beat | facts | values)


def shell_says(stage: Path, name: str, text: str) -> None:
    folder = stage / "submits" / "0001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def accounts_say(run: Path, *lives: Life) -> None:
    Accounting(time.time(), "", lives).write(run)


def ends(stage: Path) -> list[tuple[str, str]]:
    return [(attempt.cause, attempt.why) for attempt in read_attempts(stage)]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("oom 12", "out of memory"),
        ("silent 3600", "hung"),
        ("137 4", "signal 9"),
        ("135 4", "signal 7"),
        ("timeout 3590", "time limit"),
        ("TERM 7", "told to end"),
    ],
)
def test_given_only_a_record_of_the_shell_then_a_silent_attempt_is_killed_of_what_it_says(
    word: str, why: str, tmp_path: Path
) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    assert ends(stage) == [("silent", "")]
    shell_says(stage, "7_1-0.end", word)
    assert ends(stage) == [("killed", why)]


@pytest.mark.parametrize(
    ("shell", "log", "state", "why"),
    [
        ("TERM 7", "", "PREEMPTED", "preemption"),
        ("TERM 7", "DUE TO TIME LIMIT", "", "time limit"),
        ("137 7", "", "OUT_OF_MEMORY", "out of memory"),
        ("silent 7", "", "REQUEUED", "hung"),
        ("", "", "NODE_FAIL", "node failure"),
        ("", "", "COMPLETED", ""),
    ],
)
def test_given_several_witnesses_then_the_one_who_knows_best_is_believed(
    shell: str, log: str, state: str, why: str, tmp_path: Path
) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    if shell:
        shell_says(stage, "7_1-0.end", shell)
    if log:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START + 60))
        shell_says(stage, "7_1.out", f"slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT {moment} {log} ***\n")
    if state:
        accounts_say(tmp_path, Life("7_1", state, START - 1, START + 500, "n1"))
    assert ends(stage) == [("killed", why) if why else ("silent", "")]


def test_given_accounts_that_lie_then_what_an_attempt_said_itself_stands(tmp_path: Path) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1", age=1)
    lost_attempt(stage, "7_2")
    folder = max((stage / "attempts").glob("7_2*"))
    write_json(folder / "ended.json", {"cause": "finished", "started": START, "seconds": 60, "job": "7_2"})
    accounts_say(tmp_path, *(Life(f"7_{i}", "NODE_FAIL", START - 1, START + 500) for i in (1, 2)))
    assert ends(stage) == [("running", ""), ("finished", "")]


def test_a_task_that_came_back_without_a_word_of_its_shell_was_lost_with_its_node(tmp_path: Path) -> None:
    stage = tmp_path / "real"
    lost_attempt(stage, "7_1")
    lost_attempt(stage, "7_1", 1, age=1, node="n2")
    assert ends(stage) == [("killed", "node failure"), ("running", "")]
    assert bad_nodes(read_attempts(stage)) == {"n1": "node failure"}


def test_what_sacct_prints_is_read_line_by_line_and_the_rest_is_left_out() -> None:
    text = (
        "7_0|CANCELLED by 0|1700000000|1700000060|n1\n7_[1-3]|PENDING|Unknown|Unknown|None assigned\n"
        "7_1|RUNNING|1700000000|Unknown|n2\n99|FAILED|1700000000|1700000001|n1\n12345|FAILED|NODE_FAIL|||||\n\0garbage"
    )
    first, second = parse(text, {"7"})
    assert (first.job, first.state, first.seconds, first.why) == ("7_0", "CANCELLED", 60, "cancelled")
    assert (second.job, second.end, second.why) == ("7_1", None, "")


def test_both_ledgers_are_compared_and_lives_without_an_attempt_are_named() -> None:
    lives = (
        Life("7_0", "COMPLETED", 1000, 1060, "n1"),
        Life("7_0", "COMPLETED", 2000, 2030, "n1"),
        Life("7_1", "FAILED", 1000, 1004, "n2"),
        Life("7_2", "RUNNING", 1000, None),
        Life("7_3", "CANCELLED", 1000, 1000),
    )
    attempts = [
        AttemptRecord("real", "a", Path("a"), "finished", start, start + 20, job="7_0") for start in (1005, 2005)
    ]
    found = compare(Accounting(1.0, "", lives), attempts)
    assert (found.num_lives, round(3600 * found.hours_by_scheduler), round(3600 * found.hours_by_attempts)) == (
        2,
        90,
        40,
    )
    assert [life.job for life in found.without_attempt] == ["7_1"]


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
    assert bool(park_killers(folder)) == is_parked
    assert parked(folder.path) == ({"00003"} if is_parked else set())
    release(folder.path)
    assert park_killers(folder) == {}


ASKED = Resources(mem="30G", max_mem="40G", time="04:00:00", max_time="1-00:00:00")


def killed(why: str, shard: str = "00003", **values: object) -> AttemptRecord:
    facts: dict[str, object] = {"node": "n1", "shard": shard, "detail": why} | values
    return AttemptRecord("real", "a", Path("a"), "killed", START, START + 60, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "why", "values", "reason"),
    [
        (ASKED, "out of memory", {"mem": "40G"}, "shard 00003 was out of memory: mem raised from 30G to 40G"),
        (
            ASKED,
            "time limit",
            {"time": "08:00:00"},
            "took longer than the time limit: time raised from 04:00:00 to 08:00:00",
        ),
        (ASKED, "preemption", {}, ""),
        (Resources(mem="30G"), "out of memory", {}, "set mem and max_mem in the profile"),
        (Resources(mem="30G", max_mem="30G"), "out of memory", {}, "mem is 30G already, and max_mem allows no more"),
        (Resources(mem="900M", max_mem="1G"), "out of memory", {"mem": "1G"}, "mem raised from 900M to 1G"),
        (Resources(mem="900", max_mem="2G"), "out of memory", {"mem": "1800"}, "mem raised from 900 to 1800"),
        (Resources(mem="32g", max_mem="48GB"), "out of memory", {"mem": "48GB"}, "mem raised from 32g to 48GB"),
        (Resources(mem="32G", max_mem="0"), "out of memory", {"mem": "64G"}, "mem raised from 32G to 64G"),
        (Resources(mem="0", max_mem="0"), "out of memory", {}, "mem is 0 already, and max_mem allows no more"),
        (Resources(time="45", max_time="1-0"), "time limit", {"time": "01:30:00"}, "raised from 45 to 01:30:00"),
        (Resources(time="04:00", max_time="90"), "time limit", {"time": "00:08:00"}, "from 04:00 to 00:08:00"),
        (Resources(time="1-12", max_time="2-0:0"), "time limit", {"time": "48:00:00"}, "from 1-12 to 48:00:00"),
        (Resources(time="1-0", max_time="24:00:00"), "time limit", {}, "time is 1-0 already"),
    ],
)
def test_memory_or_time_is_doubled_by_cause_within_what_the_profile_allows(
    resources: Resources, why: str, values: Mapping[str, str], reason: str, tmp_path: Path
) -> None:
    found = raised(StageFolder(tmp_path / "real"), resources, [killed(why)], set())
    assert found.values == values
    assert reason in "".join(found.reasons)
    assert raised(StageFolder(tmp_path / "real"), resources, [killed(why)], {"00003"}).values == {}


def test_given_a_task_out_of_memory_before_its_first_shard_then_memory_is_raised_too(tmp_path: Path) -> None:
    stage = tmp_path / "real"
    Submit("x", "real", ("shards",), 2, "site", "/").write(new_folder(stage))
    shell_says(stage, "7_1-0.end", "oom 5")
    shell_says(stage, "7_1.out", "slurmstepd: error: Exceeded job memory limit")
    found = raised(StageFolder(stage), ASKED, [], set())
    assert found.values == {"mem": "40G"}
    assert found.reasons == ["real: task 7_1 was out of memory: mem raised from 30G to 40G"]
    assert raised_for_control(StageFolder(stage), ASKED).values == {}


def test_given_a_job_out_of_memory_while_it_finalizes_then_its_like_get_more_and_those_of_shards_do_not(
    tmp_path: Path,
) -> None:
    stage = tmp_path / "real"
    Submit("x", "real", ("finalize",), 1, "site", "/").write(new_folder(stage))
    shell_says(stage, "8-0.end", "oom 5")
    shell_says(stage, "8.out", "slurmstepd: error: Exceeded job memory limit")
    found = raised_for_control(StageFolder(stage), ASKED)
    assert found.values == {"mem": "40G"}
    assert found.reasons == ["real: job 8 was out of memory: mem raised from 30G to 40G"]
    assert raised(StageFolder(stage), ASKED, [], set()).values == {}

    Submit("y", "real", ("finalize",), 1, "site", "/", raised={"mem": "40G"}).write(new_folder(stage))
    assert raised_for_control(StageFolder(stage), ASKED).reasons == ["real: mem stays 40G, as raised before"]
    assert raised(StageFolder(stage), ASKED, [], set()).values == {}


@pytest.mark.parametrize(("text", "is_raised"), [("MemoryError", True), ("CUDA out of memory. Tried ...", False)])
def test_given_a_shard_that_said_itself_that_memory_ran_out_then_it_counts_unless_it_is_of_a_gpu(
    text: str, is_raised: bool, tmp_path: Path
) -> None:
    failure = Failure("00003", "a", "out of memory", text, 5.0, "2026-01-01")
    (tmp_path / "failed").mkdir()
    write_json(tmp_path / "failed" / "00003.json", vars(failure))
    attempt = AttemptRecord("real", "a", tmp_path, "shards failed", START, START + 9, num_failed=1)
    assert bool(raised(StageFolder(tmp_path / "real"), ASKED, [attempt], set()).values) == is_raised


def test_what_was_raised_stays_raised_and_is_not_raised_again(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "real")
    Submit("x", "real", ("shards",), 1, "site", "/", raised={"mem": "40G", "exclude": "n1"}).write(folder)
    found = raised(StageFolder(tmp_path / "real"), ASKED, [killed("out of memory")], set())
    assert (found.values, found.reasons) == ({"mem": "40G"}, ["real: mem stays 40G, as raised before"])


def test_given_a_profile_that_asks_for_more_than_was_raised_before_then_it_is_right(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "real")
    Submit("x", "real", ("shards",), 1, "site", "/", raised={"mem": "40G", "time": "08:00:00"}).write(folder)
    now = Resources(mem="65536", max_mem="0", time="1-0", max_time="2-0")
    found = raised(StageFolder(tmp_path / "real"), now, [killed("out of memory")], set())
    assert (found.values, found.reasons) == ({}, [])


def test_jobs_ask_for_what_was_changed_for_their_like() -> None:
    exclude = {"exclude": excluding(Resources(exclude="n[7-9]"), ["n2", "n1"])}
    changes = {"changes": {"mem": "64G", **exclude}, "control_changes": exclude}
    site = ClusterProfile(name="site", mem="32G")
    work = StageWork("real", "preprocess", 2, 1000, 1000, todo=[f"{i:05d}" for i in range(1000)], seconds=60.0)
    shards, finalize = plan_jobs([replace(work, **changes)], site)
    assert (shards.resources(site).mem, shards.resources(site).exclude) == ("64G", "n[7-9],n1,n2")
    assert (finalize.resources(site).mem, finalize.resources(site).exclude) == ("32G", "n[7-9],n1,n2")


def test_a_broken_node_is_left_out_until_an_attempt_finished_there_or_a_day_has_passed() -> None:
    broken = AttemptRecord("a", "x", Path("x"), "read-only file system", START, START + 9, node="n1")
    cuda = AttemptRecord("a", "y", Path("y"), "shards failed", START, START + 9, node="n2", detail="CUDA error: x")
    beside = AttemptRecord("a", "z", Path("z"), "finished", START, START + 99, node="n1")
    later = AttemptRecord("a", "z", Path("z"), "finished", START + 50, START + 99, node="n1")
    old = AttemptRecord("a", "w", Path("w"), "killed", 0, 1, node="n3", detail="node failure")
    assert bad_nodes([broken, cuda, old, beside]) == {"n1": "read-only file system", "n2": "CUDA error"}
    assert bad_nodes([broken, cuda, later]) == {"n2": "CUDA error"}


def test_given_a_task_that_ended_well_before_a_node_died_then_the_node_is_bad_all_the_same() -> None:
    def attempt(name: str, cause: str, begin: float, end: float, node: str, job: str) -> AttemptRecord:
        why = "node failure" if cause == "killed" else ""
        return AttemptRecord("a", name, Path(name), cause, START + begin, START + end, node=node, job=job, detail=why)

    lost, again = attempt("x", "killed", 0, 5, "n1", "7_2"), attempt("y", "finished", 100, 110, "n2", "7_2")
    before, after = (attempt(f"z{begin}", "finished", begin, begin + 20, "n1", "7_3") for begin in (10, 120))
    assert bad_nodes([lost, again, before]) == {"n1": "node failure"}
    assert bad_nodes([lost, again, before, after]) == {}


def test_given_parked_shards_then_what_waits_for_them_is_left_out_and_named() -> None:
    real = StageWork("real", "preprocess", 2, 10, 10, todo=[], parked=["00003"])
    half = StageWork("half", "preprocess", 2, 10, 10, todo=["00004"], parked=["00003"])
    vae = StageWork("vae", "train", 2, 10, 10, upstream=["real"])
    other = StageWork("other", "train", 2, 10, 10)
    kept, lines = possible([real, half, vae, other])
    assert [work.name for work in kept] == ["half", "other"]
    assert lines[0] == "real: parked, so it cannot be finished: 00003 (--retry-parked tries them again)"
    assert lines[-1] == "vae: left out, since it needs real"


def test_a_job_of_a_run_that_resumes_itself_calls_slurm_and_so_is_no_step(tmp_path: Path) -> None:
    from slurm.submit import Launch, record, script_text

    launch = Launch(Run(tmp_path, {"name": "run"}), ClusterProfile(name="site"), "site", tmp_path, ["in-image"], None)
    job = Job(StageWork("_auto_resume", "control", 1, 0, 0), ("resume",), after=("7",))
    text = script_text(
        launch, job, tmp_path / "_auto_resume" / "submits" / "0001", record(launch, job, waits_for=["7"])
    )
    assert "srun" not in text
    assert "in-image" not in text
    assert "-m jobs.auto_resume" in text
    assert "#SBATCH --dependency=afterany:7" in text


def test_a_plan_says_which_of_a_chain_can_go_on(tmp_path: Path) -> None:
    from jobs.left import _todo

    chain = Plan("vae", slices(4, 1), "f", chain=True)
    assert _todo(chain, {"00000"}, {"00002"}) == ["00001"]
    assert _todo(Plan("real", slices(4, 1), "f"), {"00000"}, {"00002"}) == ["00001", "00003"]
