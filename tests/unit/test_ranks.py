"""Ranks in a config: how a batch is split, what is refused, what may be changed, and what a cluster gives them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import jobs.train
from cxr_core.errors import UserError
from cxr_core.runs.run import Run
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.rendezvous import RankPlace
from cxr_core.training.settings import DiffusionTrain
from cxr_core.training.world import address_of, check_gpus, no_compiled_operators
from jobs.config import load_config, resolved
from slurm.packs import StageWork, plan_jobs, table
from slurm.profile import ClusterProfile

STAGE: dict[str, Any] = {
    "name": "d",
    "kind": "train",
    "model": "diffusion",
    "inputs": {"latents": ".", "base": "."},
    "steps": 10,
    "batch_size": 12,
    "checkpoint_every": 5,
    "learning_rate": 1e-4,
}


def config(folder: Path, *overrides: str, **values: Any) -> Any:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "stages": [STAGE | values]}))
    return load_config(str(path), overrides)


@pytest.mark.parametrize("ranks", [{"per_node": 5}, {"nodes": 4, "per_node": 2}])
def test_given_a_batch_that_ranks_cannot_share_then_the_config_is_refused_with_what_fits(
    tmp_path: Path, ranks: dict[str, int]
) -> None:
    num = ranks.get("nodes", 1) * ranks["per_node"]
    with pytest.raises(UserError) as raised:
        config(tmp_path, ranks=ranks)
    assert f"batch_size 12 cannot be split over {num} ranks: take a batch_size of" in str(raised.value)
    assert "one of 1, 2, 3, 4, 6, 12" in str(raised.value)


def test_given_a_node_whose_name_has_no_address_then_it_is_named_and_one_node_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "nowhere.invalid")
    assert address_of(RankPlace(tmp_path, 0, 0, size=2, num_local=2)) == "127.0.0.1"
    with pytest.raises(UserError, match=r"^nowhere\.invalid: this node's own name has no address"):
        address_of(RankPlace(tmp_path, 0, 0, size=2, num_local=1))


def test_given_offload_without_deepspeed_then_the_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="offload is DeepSpeed's, which zero: 0 does without"):
        config(tmp_path, ranks={"per_node": 2, "zero": 0, "offload": True})


@pytest.mark.parametrize(
    ("ranks", "micro_batch", "at_once"),
    [(None, None, 12), (None, 5, 5), ({"per_node": 2}, None, 6), ({"per_node": 2}, 4, 4), ({"nodes": 3}, 8, 4)],
)
def test_given_ranks_then_each_has_a_share_of_the_batch(ranks: Any, micro_batch: int | None, at_once: int) -> None:
    assert DiffusionTrain(**STAGE, ranks=ranks, micro_batch=micro_batch).at_once == at_once


def test_given_a_run_under_way_then_its_ranks_may_be_changed_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "r"
    with Run.locked(root, resolved(config(tmp_path, ranks={"per_node": 4}))) as run:
        run.stage("d").path.mkdir()
        run.stage("d").plan_path.touch()
    with Run.locked(root, resolved(config(tmp_path, "stages.d.ranks.per_node=2", ranks={"per_node": 4}))):
        pass
    assert Run.open(root).config["stages"][0]["ranks"]["per_node"] == 2
    with (
        pytest.raises(UserError, match="another config"),
        Run.locked(root, resolved(config(tmp_path, "stages.d.batch_size=24"))),
    ):
        pass


def test_given_a_rank_that_sees_too_few_gpus_then_it_is_named_with_its_node_and_the_counts() -> None:
    good = [("n0", 4)] * 4 + [("n1", 4)] * 4
    check_gpus(good, given=4, num_local=4)
    check_gpus([("laptop", 0)] * 2, given=None, num_local=2)
    check_gpus([("laptop", 0)] * 2, given=0, num_local=2)
    with pytest.raises(UserError, match="rank 5 on n1 sees 1 GPUs, but 4 are given to 4 ranks of its node"):
        check_gpus([*good[:5], ("n1", 1), *good[6:]], given=4, num_local=4)
    with pytest.raises(UserError, match="rank 0 on laptop sees 1 GPUs, but 2 are given to 2 ranks"):
        check_gpus([("laptop", 1)] * 2, given=None, num_local=2)


def test_given_ranks_on_nodes_then_a_plan_counts_the_gpus_of_all_of_them() -> None:
    site = ClusterProfile.model_validate({"name": "site", "gpus_per_node": 1, "price_per_gpu_hour": 2.0})
    works = [StageWork("d", "train", 8, 100, 10, chain=True, seconds=360.0, nodes=2, ranks_per_node=4)]
    jobs = plan_jobs(works, site)
    (row,) = table(jobs, works, site)
    assert (row["tasks"], row["gpus"], row["hours"]) == (1, 8, 1.0)
    assert (row["gpu_hours"], row["cost"]) == (8.0, 16.0)


def test_given_a_pggan_on_ranks_then_a_plan_says_what_each_has_of_a_batch() -> None:
    gan = {"name": "g", "kind": "train", "model": "pggan", "inputs": {"dataset": "."}, "preset": "nano"}
    sizes = {"steps": 90, "checkpoint_every": 5, "images_per_scale": 320, "fade_images": 160, "batch_size": 32}
    last = {16: {"batch_size": 16}}
    settings = PgganTrain(**gan, **sizes, scales=last, ranks={"nodes": 2, "per_node": 2})
    (note,) = jobs.train.estimate(settings, {}).notes
    assert note == "4 ranks (2 x 2): each has 4 to 8 of the images of a step"


def test_given_an_operator_that_is_not_built_then_deepspeed_does_not_compile_it_in_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.ops.op_builder.builder import OpBuilder
    from deepspeed.ops.op_builder.cpu import CPUAdamBuilder

    monkeypatch.setattr(OpBuilder, "jit_load", OpBuilder.jit_load)
    no_compiled_operators()
    with pytest.raises(UserError, match="would compile its operator cpu_adam in this job") as raised:
        CPUAdamBuilder().load()
    assert "--target cuda" in str(raised.value)
