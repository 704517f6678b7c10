"""What shards of an evaluate stage do: told by `extra`, and in plans of before by the id."""

from dataclasses import replace

import pytest

from cxr_core.evaluation.purpose import Purpose, purpose_of, shard_for, shards_for, slices_for
from cxr_core.runs.plan import Shard

KINDS = {
    "judge-synthetic-00000": Purpose("judge", "synthetic"),
    "model-p00-00012": Purpose("model", "p00"),
    "judge-first-00000": Purpose("judge", "first"),
    "copies-real-00003": Purpose("copies", "real"),
    "search-held-00000": Purpose("search", "held"),
    "search-planted-100000": Purpose("search", "planted"),
    "alike-synthetic": Purpose("alike", "synthetic"),
    "person-00000": Purpose("person"),
    "position-real-00001": Purpose("position", "real"),
    "position-pictures": Purpose("position pictures"),
    "utility00-real-7": Purpose(""),
    "pictures": Purpose(""),
}
"""Ids of plans of before, and what their shards do."""


@pytest.mark.parametrize(("name", "purpose"), KINDS.items())
def test_given_a_plan_of_before_then_the_id_says_what_a_shard_does(name: str, purpose: Purpose) -> None:
    assert purpose_of(Shard(name, 0, 1, {"part": "features"})) == purpose


def test_given_a_plan_of_now_then_extra_says_it_whatever_the_id() -> None:
    shard = shard_for("model-p00-00000", Purpose("search", "held"))
    assert purpose_of(shard) == Purpose("search", "held")
    assert purpose_of(replace(shard, id="anything", extra={**shard.extra, "part": "sweep"})) == Purpose(
        "search", "held"
    )


def test_slices_of_a_task_have_the_ids_of_before_and_cover_its_items() -> None:
    shards = slices_for(5, 2, Purpose("copies", "real"))
    assert [(one.id, one.start, one.stop) for one in shards] == [
        ("copies-real-00000", 0, 2),
        ("copies-real-00001", 2, 4),
        ("copies-real-00002", 4, 5),
    ]
    assert [purpose_of(Shard(one.id, one.start, one.stop)) for one in shards] == [purpose_of(one) for one in shards]


def test_shards_are_chosen_by_kind_and_source_in_the_order_of_the_plan() -> None:
    plan = [Shard(name, 0, 1) for name in KINDS]
    assert [one.id for one in shards_for(plan, ["judge", "model"])] == [
        "judge-synthetic-00000",
        "model-p00-00012",
        "judge-first-00000",
    ]
    assert [one.id for one in shards_for(plan, ["copies", "position"], "real")] == [
        "copies-real-00003",
        "position-real-00001",
    ]
