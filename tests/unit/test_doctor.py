"""Reading what Slurm prints (captured from a 22.05 cluster), and the checks that need no scheduler."""

import shutil
import sys
from pathlib import Path

import pytest

from slurm.checks import machine, nodes, scheduler
from slurm.checks.ask import (
    ask,
    leaks_of,
    parse_config,
    parse_records,
    parse_rows,
    parse_version,
    scrubbed,
)
from slurm.checks.job import Visit
from slurm.checks.site import Check, CheckResult, Site
from slurm.doctor import CHECKS, examine
from slurm.profile import ClusterProfile, load_profile
from tests.conftest import REPOSITORY
from tests.pipeline import cxr

PRINTED = REPOSITORY / "tests" / "golden" / "slurm"


def site_of(runs: Path, profile: ClusterProfile | None = None, **environ: str) -> Site:
    return Site(profile or ClusterProfile(name="test"), runs, environ)


def known(site: Site, **facts: object) -> Site:
    """A site like `site` whose scheduler has answered: `facts` stand in the place of what would be asked."""
    return type("Recorded", (Site,), facts)(site.profile, site.runs, site.environ, site.wait)


def config(**changes: str) -> dict[str, str]:
    return parse_config((PRINTED / "scontrol_config.txt").read_text()) | changes


def partitions() -> dict[str, dict[str, str]]:
    records = parse_records((PRINTED / "scontrol_partitions.txt").read_text())
    return {record["PartitionName"]: record for record in records}


def test_the_configuration_of_a_controller_is_read() -> None:
    read = config()
    assert read["MaxArraySize"] == "1001"
    assert read["PreemptType"] == "preempt/partition_prio"
    assert read["AuthInfo"].endswith(",cred_expire=5")
    assert read["SLURM_VERSION"] == "22.05.8"
    assert read["SlurmctldHost[0]"] == "vm(127.0.0.1)"


def test_partitions_are_read_with_their_limits() -> None:
    read = partitions()
    assert list(read) == ["low", "cancel", "high"]
    assert [part["PreemptMode"] for part in read.values()] == ["REQUEUE", "CANCEL", "OFF"]
    assert read["low"]["MaxTime"] == "2-00:00:00"
    assert read["low"]["TRES"] == "cpu=32,mem=16000M,node=4,billing=32,gres/gpu=8"


@pytest.mark.parametrize(
    ("text", "version"), [("slurm-wlm 22.05.8\n", (22, 5, 8)), ("slurm 23.11.4-1", (23, 11, 4)), ("what?", None)]
)
def test_versions_are_read(text: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


def test_rows_keep_empty_fields() -> None:
    assert parse_rows("cxr|10|\nroot||\n\n") == [["cxr", "10", ""], ["root", "", ""]]


def test_variables_of_a_surrounding_job_are_found_and_removed_but_the_cluster_stays() -> None:
    environ = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "7", "SBATCH_PARTITION": "p", "HOME": "/h"}
    assert leaks_of(environ) == ["SBATCH_PARTITION", "SLURM_JOB_ID"]
    assert scrubbed(environ) == {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/h"}


def test_a_command_that_is_missing_or_slow_is_an_answer_and_no_error() -> None:
    assert ask("no-such-command", environ={"PATH": "/nowhere"}).reason == "no-such-command: command not found"
    slow = ask(sys.executable, "-c", "import time; time.sleep(20)", environ={}, seconds=0.3)
    assert (slow.ok, slow.code) == (False, 124)
    assert "gave no answer" in slow.reason


def test_given_an_array_limit_below_the_profile_then_it_fails_with_the_line_to_write(tmp_path: Path) -> None:
    site = known(site_of(tmp_path), config=config(MaxArraySize="101"), partitions=partitions())
    found = next(iter(scheduler.limits(site)))
    assert found.level == "fail"
    assert found.fix == "set `max_array_size: 101` in the profile"


def test_given_a_time_above_the_partition_then_it_fails_though_sbatch_would_take_it(tmp_path: Path) -> None:
    site = known(
        site_of(tmp_path, ClusterProfile(name="test", time="3-00:00:00")), config=config(), partitions=partitions()
    )
    found = list(scheduler.limits(site))[-1]
    assert found.level == "fail"
    assert "3-00:00:00 of any stage is more than partition low allows (2-00:00:00)" in found.fact


@pytest.mark.parametrize(
    ("partition", "changes", "level", "words"),
    [
        ("low", {}, "ok", "REQUEUE after 5 s, with a warning"),
        ("low", {"SlurmctldParameters": "(null)"}, "warn", "without the warning signal"),
        ("cancel", {}, "warn", "are cancelled, not requeued"),
        ("high", {}, "ok", "tasks in high are not preempted"),
        ("low", {"PreemptType": "preempt/none"}, "ok", "tasks in low are not preempted"),
    ],
)
def test_preemption_is_told_by_partition(
    tmp_path: Path, partition: str, changes: dict[str, str], level: str, words: str
) -> None:
    profile = ClusterProfile(name="test", partition=partition)
    found = scheduler.preemption(known(site_of(tmp_path, profile), config=config(**changes), partitions=partitions()))
    assert found.level == level
    assert words in found.fact


@pytest.mark.parametrize(
    ("node", "level"), [(100.3, "ok"), (105.0, "warn"), (97.0, "warn"), (190.0, "fail"), (101.5, "ok")]
)
def test_a_clock_is_blamed_only_for_what_is_beyond_the_round_trip(tmp_path: Path, node: float, level: str) -> None:
    assert nodes.clocks(known(site_of(tmp_path), visit=Visit(clocks=((100.0, node, 101.0),)))).level == level


@pytest.mark.parametrize(
    ("first", "again", "level"),
    [
        (["ok", "EEXIST"], ["EEXIST", "EEXIST"], "ok"),
        (["ok", "ok"], ["EEXIST", "EEXIST"], "fail"),
        (["ok", "EEXIST"], ["ok", "EEXIST"], "fail"),
        (["EPERM", "EPERM"], ["EPERM", "EPERM"], "warn"),
    ],
)
def test_links_must_be_won_once(tmp_path: Path, first: list[str], again: list[str], level: str) -> None:
    reports = tuple({"links": {"first": a, "again": b}} for a, b in zip(first, again, strict=True))
    assert nodes.links(known(site_of(tmp_path), visit=Visit(reports=reports))).level == level


def test_given_a_file_seen_later_than_the_profile_allows_then_it_fails_with_the_line_to_write(tmp_path: Path) -> None:
    report = {"answered": True, "round_trips": [1.0, 70.0]}
    profile = ClusterProfile(name="test", visible_seconds=60)
    told = Visit(reports=(report, report), clocks=((0.0, 1.0, 2.0),))
    near, far = nodes.visibility(known(site_of(tmp_path, profile), visit=told))
    assert (near.level, far.level) == ("ok", "fail")
    assert "`visible_seconds: 140`" in far.fix


def test_given_caches_in_home_on_a_cluster_then_it_warns_until_the_profile_names_others(tmp_path: Path) -> None:
    home, large = tmp_path / "home", tmp_path / "large"
    names = ("HF_HOME", "APPTAINER_CACHEDIR", "PIP_CACHE_DIR", "TORCH_HOME", "TRITON_CACHE_DIR")
    site = known(site_of(tmp_path, HOME=str(home)), has_slurm=True)
    assert machine.caches(site).level == "warn"
    profile = ClusterProfile(name="test", caches={name: str(large) for name in names})
    assert machine.caches(known(site_of(tmp_path, profile, HOME=str(home)), has_slurm=True)).level == "ok"


def test_given_a_python_path_then_it_warns(tmp_path: Path) -> None:
    first = next(iter(machine.python_leaks(site_of(tmp_path, PYTHONPATH="/somewhere"))))
    assert (first.level, first.fix) == ("warn", "unset PYTHONPATH")


def test_given_no_slurm_then_one_line_says_so_and_the_machine_is_examined(tmp_path: Path) -> None:
    found = list(examine(site_of(tmp_path, PATH="/nowhere", HOME="/nowhere")))
    assert [name for name, _ in found if name not in ("python",)] == [
        "run folder",
        "room",
        "caches",
        "variables",
        "scheduler",
    ]
    assert "only this machine was examined" in found[-1][1].fact


def test_the_local_profile_needs_no_scheduler(tmp_path: Path) -> None:
    name, last = list(examine(site_of(tmp_path, load_profile("local"), PATH="/nowhere", HOME="/nowhere")))[-1]
    assert (name, last.level) == ("scheduler", "ok")


def test_a_finding_that_is_not_ok_has_a_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a fix"):
        CheckResult("fail", "it is broken")


def test_further_checks_can_be_given(tmp_path: Path) -> None:
    mine = Check("mine", lambda site: CheckResult("fail", "no image", "build one"))
    assert [name for name, _ in examine(site_of(tmp_path), (*CHECKS[:1], mine))] == ["run folder", "mine"]


def test_the_command_counts_and_exits_with_1_only_where_something_failed(tmp_path: Path) -> None:
    environ = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    good = cxr("doctor", "--runs", tmp_path, env=environ)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.splitlines()[-1].endswith(" 0 fail")
    unknown = cxr("doctor", "--cluster", "atlantis", env=environ)
    assert unknown.returncode == 2
    assert "no such profile of a cluster" in unknown.stderr


def test_room_and_folder_leave_nothing_behind(tmp_path: Path) -> None:
    site = site_of(tmp_path / "not" / "there")
    assert machine.run_folder(site).level == "ok"
    assert machine.room(site).level == ("ok" if shutil.disk_usage(tmp_path).free > 20e9 else "warn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ("0-0", "ok", "any free port"),
        ("(null)", "ok", "any free port"),
        ("60001-63000", "ok", "3,000 ports"),
        ("60001-60020", "warn", "20 ports (60001-60020), and tasks of one CPU that fill a node need 32"),
    ],
)
def test_given_few_ports_for_srun_then_doctor_says_how_many_a_full_node_needs(
    given: str, level: str, words: str, tmp_path: Path
) -> None:
    found = scheduler.ports(known(site_of(tmp_path), config=config(SrunPortRange=given), partitions=partitions()))
    assert found.level == level
    assert words in found.fact


def test_given_nodes_without_sbatch_then_cron_is_named(tmp_path: Path) -> None:
    reports = ({"node": "n1", "sbatch": True}, {"node": "n2", "sbatch": False})
    found = nodes.submits(known(site_of(tmp_path), visit=Visit(reports)))
    assert (found.level, found.fact.split()[0]) == ("warn", "n2")
    assert "--if-needed" in found.fix
    assert nodes.submits(known(site_of(tmp_path), visit=Visit(reports[:1]))).level == "ok"
