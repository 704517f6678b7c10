"""How stages become jobs: packs, dependencies, and the limits of a cluster."""

import pytest

from cxr_core.errors import UserError
from slurm.packs import Job, StageWork, plan_jobs, table
from slurm.profile import ClusterProfile


def profile(**keys: object) -> ClusterProfile:
    return ClusterProfile.model_validate({"name": "site", "task_minutes": 45} | keys)


def work(name: str = "real", **keys: object) -> StageWork:
    """1,000 shards of 10 items, frozen, nothing done."""
    values = {"kind": "preprocess", "threads": 2, "num_items": 10_000, "num_shards": 1000}
    return StageWork(name, **(values | {"todo": [f"{i:05d}" for i in range(1000)]} | keys))  # type: ignore[arg-type]


def shape(jobs: list[Job]) -> list[tuple[str, str, int, tuple[str | int, ...]]]:
    return [(job.work.name, "+".join(job.does), job.num_tasks, job.after) for job in jobs]


def test_packs_are_of_30_to_60_minutes_and_hold_each_shard_once() -> None:
    jobs = plan_jobs([work(seconds=90.0)], profile())
    assert shape(jobs) == [("real", "shards", 34, ()), ("real", "finalize", 1, (0,))]
    packs = jobs[0].packs
    assert packs is not None
    assert [shard for pack in packs for shard in pack] == list(work().todo or ())
    assert all(30 * 60 <= 90 * len(pack) <= 60 * 60 for pack in packs)


def test_given_no_measured_rate_then_the_profile_guesses() -> None:
    guessed = profile(stages={"preprocess": {"seconds_per_item": 9}})
    assert plan_jobs([work()], guessed)[0].num_tasks == 34


def test_given_a_short_time_limit_then_packs_leave_a_fifth_of_it_free() -> None:
    (shards, _) = plan_jobs([work(seconds=60.0)], profile(time="00:30:00"))
    assert max(len(pack) for pack in shards.packs or ()) * 60 <= 0.8 * 30 * 60


def test_given_more_tasks_than_an_array_may_have_then_packs_are_larger() -> None:
    (shards, _) = plan_jobs([work(seconds=3600.0)], profile(max_array_size=11))
    assert shards.num_tasks == 11
    assert sum(len(pack) for pack in shards.packs or ()) == 1000


def test_given_a_submit_limit_then_all_tasks_together_stay_within_it() -> None:
    works = [work("a", seconds=2000.0), work("b", seconds=2000.0, upstream=["a"], todo=None)]
    jobs = plan_jobs(works, profile(max_submit=100), num_queued=20)
    assert sum(job.num_tasks for job in jobs) <= 80
    assert sum(len(pack) for pack in jobs[0].packs or ()) == 1000
    with pytest.raises(UserError, match=r"5 jobs are needed, but profile 'site' allows 100 .* where 96 of yours are"):
        plan_jobs(works, profile(max_submit=100), num_queued=96)


def test_stages_are_chained_by_what_they_need_and_not_by_their_order() -> None:
    works = [
        work("real", seconds=90.0),
        work("vae", kind="train", chain=True, todo=None, upstream=["real"]),
        work("judge", kind="train", chain=True, todo=None, upstream=["real"]),
        work("synthetic", kind="generate", seconds=90.0, todo=None, upstream=["vae", "real"]),
    ]
    assert shape(plan_jobs(works, profile())) == [
        ("real", "shards", 34, ()),
        ("real", "finalize", 1, (0,)),
        ("vae", "freeze+shards+finalize", 1, (1,)),
        ("judge", "freeze+shards+finalize", 1, (1,)),
        ("synthetic", "freeze", 1, (2, 1)),
        ("synthetic", "shards", 34, (4,)),
        ("synthetic", "finalize", 1, (5,)),
    ]


def test_given_what_is_done_or_queued_then_only_the_rest_is_planned() -> None:
    done = work("real", todo=[], finished=True)
    running = work("vae", todo=None, jobs={"7": ("freeze", "shards", "finalize")}, upstream=["real"])
    few = work("synthetic", todo=["00003"], upstream=["vae"])
    assert shape(plan_jobs([done, running, few], profile())) == [("synthetic", "shards+finalize", 1, ("7",))]
    unfinished = work("real", todo=[])
    assert shape(plan_jobs([unfinished], profile())) == [("real", "finalize", 1, ())]


@pytest.mark.parametrize(
    ("queued", "rest"),
    [
        ({"7": ("freeze",)}, [("real", "shards", 34, ("7",)), ("real", "finalize", 1, (0,))]),
        ({"7": ("freeze",), "8": ("shards",)}, [("real", "finalize", 1, ("7", "8"))]),
        ({"7": ("freeze",), "8": ("shards",), "9": ("finalize",)}, []),
    ],
)
def test_given_a_launcher_that_died_between_two_submits_then_the_rest_is_planned(queued, rest) -> None:
    assert shape(plan_jobs([work(todo=None, seconds=90.0, jobs=queued)], profile())) == rest


def test_given_fewer_cpus_than_threads_then_both_are_named() -> None:
    with pytest.raises(UserError, match=r"computes with 2 threads, but profile 'site' gives a task 1 CPUs"):
        plan_jobs([work()], profile(cpus_per_task=1))


def test_the_table_counts_hours_and_cost() -> None:
    site = profile(gpus_per_node=2, price_per_gpu_hour=1.5, array_parallelism=10)
    works = [work(seconds=36.0)]
    (row,) = table(plan_jobs(works, site), works, site)
    assert (row["shards"], row["tasks"], row["gpus"]) == (1000, 14, 20)
    assert row["hours"] == pytest.approx(10)
    assert row["gpu_hours"] == pytest.approx(20)
    assert row["cost"] == pytest.approx(30)
