"""What shards of an evaluate stage do: told by `extra`, and in plans of before by the id."""

from dataclasses import replace

import pytest

from cxr_core.evaluation.tasks import Task, shards_of, task_of, task_shard, task_slices
from cxr_core.runs.plan import Shard

KINDS = {
    "judge-synthetic-00000": Task("judge", "synthetic"),
    "model-p00-00012": Task("model", "p00"),
    "judge-first-00000": Task("judge", "first"),
    "copies-real-00003": Task("copies", "real"),
    "search-held-00000": Task("search", "held"),
    "search-planted-100000": Task("search", "planted"),
    "alike-synthetic": Task("alike", "synthetic"),
    "person-00000": Task("person"),
    "position-real-00001": Task("position", "real"),
    "position-pictures": Task("position pictures"),
    "utility00-real-7": Task(""),
    "pictures": Task(""),
}
"""Ids of plans of before, and what their shards do."""


@pytest.mark.parametrize(("name", "task"), KINDS.items())
def test_given_a_plan_of_before_then_the_id_says_what_a_shard_does(name: str, task: Task) -> None:
    assert task_of(Shard(name, 0, 1, {"part": "features"})) == task


def test_given_a_plan_of_now_then_extra_says_it_whatever_the_id() -> None:
    shard = task_shard("model-p00-00000", Task("search", "held"))
    assert task_of(shard) == Task("search", "held")
    assert task_of(replace(shard, id="anything", extra={**shard.extra, "part": "sweep"})) == Task("search", "held")


def test_slices_of_a_task_have_the_ids_of_before_and_cover_its_items() -> None:
    shards = task_slices(5, 2, Task("copies", "real"))
    assert [(one.id, one.start, one.stop) for one in shards] == [
        ("copies-real-00000", 0, 2),
        ("copies-real-00001", 2, 4),
        ("copies-real-00002", 4, 5),
    ]
    assert [task_of(Shard(one.id, one.start, one.stop)) for one in shards] == [task_of(one) for one in shards]


def test_shards_are_chosen_by_kind_and_source_in_the_order_of_the_plan() -> None:
    plan = [Shard(name, 0, 1) for name in KINDS]
    assert [one.id for one in shards_of(plan, ["judge", "model"])] == [
        "judge-synthetic-00000",
        "model-p00-00012",
        "judge-first-00000",
    ]
    assert [one.id for one in shards_of(plan, ["copies", "position"], "real")] == [
        "copies-real-00003",
        "position-real-00001",
    ]
