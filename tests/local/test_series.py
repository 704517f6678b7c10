"""Several requests in one generate stage: each with its own checkpoint, model, guidance and steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jobs.generate
from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.generation.reproduce import reproduce
from cxr_core.generation.series import series_of
from cxr_core.generation.settings import GenerateStage
from cxr_core.models.checkpoints import Checkpoint, checkpoint_at, weights_sha256, write_checkpoints
from cxr_core.models.presets import NANO
from cxr_core.models.stable_diffusion import build, save
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from jobs.config import load_config
from tests.planted import planted_rows, write_planted

EFFUSIONS = {"counts": {"Effusion": 3}}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("real") / "real", planted_rows(30)).folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished train stage: of its checkpoints at steps 10, 20 and 30 the first one is not kept."""
    folder = tmp_path_factory.mktemp("trained")
    for step in (20, 30):
        save(build(replace(NANO), seed=step), folder / f"step{step}")
    checkpoints = [
        Checkpoint(step, f"{i:05d}", f"step{step}" if step > 10 else None, None, None, "metrics.jsonl")
        for i, step in enumerate((10, 20, 30))
    ]
    write_checkpoints(folder, checkpoints)
    return folder


def stage(folder: Path, inputs: dict[str, Path], model: Any = "m", **values: Any) -> Work:
    defaults: dict[str, Any] = {"denoising_steps": 2, "guidance": 2.0, "batch_size": 2, "shard_size": 2, "threads": 1}
    named = {"model": model, "like": "r"}
    settings = GenerateStage(name="syn", kind="generate", inputs=named, **{**defaults, **values})
    folder.mkdir()
    return Work(StageFolder(folder), jobs.generate, Context(settings, inputs, 5, folder), {})


def finish(work: Work) -> Dataset:
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return Dataset.open(work.folder.path)


def made(dataset: Dataset, series: str) -> dict[str, Any]:
    """What the images of a series say that they were made with."""
    told = dataset.rows.loc[dataset.rows["request"] == series, "generation"].map(json.loads).tolist()
    names = ("model", "scheduler", "steps", "guidance")
    assert all({name: one[name] for name in names} == {name: told[0][name] for name in names} for one in told)
    return {name: told[0][name] for name in names}


def test_given_requests_of_their_own_each_image_is_made_as_its_request_says(
    tmp_path: Path, trained: Path, real: Path
) -> None:
    requests = [
        {"name": "plain", **EFFUSIONS},
        {"name": "early", "checkpoint": 20, "guidance": 1.0, "denoising_steps": 1, "counts": {"No Finding": 2}},
        {"name": "other", "model": "n", "scheduler": "ddim", **EFFUSIONS},
    ]
    other = checkpoint_at(trained, 20)
    work = stage(tmp_path / "syn", {"model": trained, "model.1": other, "like": real}, ["m", "n"], requests=requests)
    dataset = finish(work)
    assert list(dataset.verify()) == []
    assert dataset.rows["request"].tolist() == ["plain"] * 3 + ["early"] * 2 + ["other"] * 3
    first, last = (weights_sha256(checkpoint_at(trained, step)) for step in (20, 30))
    assert made(dataset, "plain") == {"model": last, "scheduler": "dpmsolver++", "steps": 2, "guidance": 2.0}
    assert made(dataset, "early") == {"model": first, "scheduler": "dpmsolver++", "steps": 1, "guidance": 1.0}
    assert made(dataset, "other") == {"model": first, "scheduler": "ddim", "steps": 2, "guidance": 2.0}
    for image_id in ("syn-00000001", "syn-00000003", "syn-00000006"):
        series = series_of(dataset, image_id)
        folder = checkpoint_at({"model": trained, "model.1": other}[series.role], series.checkpoint)
        assert not reproduce(dataset, image_id, folder, strict=True).difference.any()


def test_given_a_sweep_the_request_is_drawn_for_every_checkpoint_and_guidance(
    tmp_path: Path, trained: Path, real: Path
) -> None:
    sweep = {"checkpoints": "all", "guidance": [1.0, 2.5]}
    dataset = finish(stage(tmp_path / "syn", {"model": trained, "like": real}, request=EFFUSIONS, sweep=sweep))
    names = [f"step{step}-guidance{scale}" for step in (20, 30) for scale in ("1", "2.5")]
    assert dataset.rows["request"].tolist() == [name for name in names for _ in range(3)]
    assert [one["num_images"] for one in dataset.info.about["series"]] == [3] * 4
    assert made(dataset, "step20-guidance2.5")["guidance"] == 2.5
    assert made(dataset, "step20-guidance1")["model"] == weights_sha256(checkpoint_at(trained, 20))


def test_given_a_checkpoint_that_was_not_kept_the_error_names_those_that_are(
    tmp_path: Path, trained: Path, real: Path
) -> None:
    sweep = {"checkpoints": [10, 20]}
    work = stage(tmp_path / "syn", {"model": trained, "like": real}, request=EFFUSIONS, sweep=sweep)
    with pytest.raises(UserError, match=r"did not keep its checkpoint of step 10(.|\n)*those of 20, 30"):
        freeze(work)


def test_given_a_config_that_asks_for_a_checkpoint_its_training_will_not_keep_it_is_told_at_once() -> None:
    names = ["stages.synthetic.sweep={checkpoints: [300], guidance: [1, 3]}"]
    with pytest.raises(UserError, match=r"asks for checkpoint 300 of 'diffusion', which keeps those of step"):
        load_config("demo", names)
