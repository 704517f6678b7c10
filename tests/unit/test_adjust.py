"""What a resume asks for otherwise than the profile says: within what it allows, once, and for jobs of one kind."""

from collections.abc import Mapping

import pytest

from slurm.adjust import adjusted, excluding
from slurm.packs import StageWork, plan_jobs
from slurm.profile import ClusterProfile, Resources

ASKED = Resources(mem="30G", max_mem="40G", time="04:00:00", max_time="1-00:00:00")
SHORT = {"out of memory": {"mem": ["shard 00003"]}, "time limit": {"time": ["shard 00003", "task 7_1"]}}


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
        (ASKED, "", {}, ""),
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
    resources: Resources, why: str, values: Mapping[str, str], reason: str
) -> None:
    found = adjusted(resources, SHORT.get(why, {}), {})  # type: ignore[arg-type]
    assert found.values == values
    assert reason in "".join(found.reasons)


def test_what_was_raised_stays_raised_and_is_not_raised_again() -> None:
    found = adjusted(ASKED, {"mem": ["shard 00003"]}, {"mem": "40G", "exclude": "n1"})
    assert (found.values, found.reasons) == ({"mem": "40G"}, ["mem stays 40G, as raised before"])


def test_given_a_profile_that_asks_for_more_than_was_raised_before_then_it_is_right() -> None:
    now = Resources(mem="65536", max_mem="0", time="1-0", max_time="2-0")
    found = adjusted(now, {"mem": ["shard 00003"]}, {"mem": "40G", "time": "08:00:00"})
    assert (found.values, found.reasons) == ({}, [])


def test_given_a_record_that_holds_no_value_of_slurm_then_it_is_not_asked_for() -> None:
    assert adjusted(ASKED, {}, {"mem": "$(reboot)"}).values == {}


def test_jobs_ask_for_what_was_changed_for_their_like() -> None:
    exclude = {"exclude": excluding(Resources(exclude="n[7-9]"), ["n2", "n1"])}
    changes = {"changes": {"mem": "64G", **exclude}, "control_changes": exclude}
    site = ClusterProfile(name="site", mem="32G")
    work = StageWork("real", "preprocess", 2, 1000, 1000, todo=[f"{i:05d}" for i in range(1000)], seconds=60.0)
    shards, finalize = plan_jobs([StageWork(**{**work.__dict__, **changes})], site)
    assert (shards.resources(site).mem, shards.resources(site).exclude) == ("64G", "n[7-9],n1,n2")
    assert (finalize.resources(site).mem, finalize.resources(site).exclude) == ("32G", "n[7-9],n1,n2")
