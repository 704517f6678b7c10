"""The ready config `pggan` on phantoms and on real radiographs, and kills of its training; `make proof TARGET=pggan`.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.metrics import FILE, Distance, FidelityResult, Interval, Metrics
from cxr_core.generation.bank_folder import Bank
from cxr_core.generation.bank_settings import InvertStage
from cxr_core.generation.inversion import Inverter
from cxr_core.generation.pggan import open_pggan
from cxr_core.models import pggan
from cxr_core.models.checkpoints import checkpoint_at, final_checkpoint
from cxr_core.models.pggan import doubled
from cxr_core.report.read import read_run
from cxr_core.report.verdicts import copying_alarm, coverage_words
from cxr_core.runs.files import sha256_path
from cxr_core.training.pggan import new_model
from cxr_core.training.pggan_settings import PgganTrain
from jobs.config import find_config
from tests.pipeline import cxr, kill_at_random_moments, losses, run_nano, stage_folder

pytestmark = pytest.mark.proof

RESULTS = Path(__file__).with_name("results")

UNTRAINED = """
name: {name}
seed: 2023
stages:
  - name: synthetic
    kind: generate
    inputs: {{model: {model}, like: {run}/real}}
    request: {{like: train, num_images: 640}}
    batch_size: 32
    shard_size: 160
  - name: study
    kind: evaluate
    inputs: {{real: {run}/real, synthetic: synthetic, judge: {run}/judge}}
    fidelity: {{}}
    faithfulness: {{}}
"""
"""The same request of a generator that has learnt nothing."""

KILLED = """
name: nano
seed: 5
stages:
  - {name: real, kind: preprocess, threads: 1, data: {kind: phantom, num_images: 120, seed: 3, size: 64}, size: 16}
  - {name: gan, kind: train, model: pggan, inputs: {dataset: real}, threads: 1, preset: nano, steps: 120, batch_size: 8,
     images_per_scale: 320, fade_images: 240, checkpoint_every: 4, num_previews: 2}
"""
"""Forty steps at each of 4, 8 and 16 pixels, of which thirty fade in."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))
    folder.mkdir(exist_ok=True)
    return folder


def config(name: str, data: dict[str, Any] | None, runs: Path) -> Path:
    """The ready config, with other images where `data` says so."""
    value = yaml.safe_load(find_config("pggan").read_text())
    value["name"], value["stages"][0]["data"] = name, data or value["stages"][0]["data"]
    path = runs / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def finished(path: Path, runs: Path) -> Path:
    done = cxr("run", path, "--runs", runs, timeout=7200)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}".replace(str(runs), "RUNS"))
    run = runs / path.stem
    seconds = {stage.name: sum(stage.seconds.values()) for stage in read_run(run).stages}
    print({name: round(value) for name, value in seconds.items()}, f"{sum(seconds.values()) / 60:.1f} min in all")
    return run


def untrained(run: Path, runs: Path) -> FidelityResult:
    model, name = runs / f"{run.name}_random", f"{run.name}_untrained"
    if not model.exists():
        fresh = new_model(PgganTrain(**settings_of(run, "gan")), seed=1)
        pggan.save(fresh, model, {}, scale=fresh.info.scale, fade=1.0)
    path = runs / f"{name}.yaml"
    path.write_text(UNTRAINED.format(name=name, model=model, run=run))
    finished(path, runs)
    return fidelity(runs / name)


def settings_of(run: Path, stage: str) -> dict[str, Any]:
    (given,) = (each for each in yaml.safe_load((run / "config.yaml").read_text())["stages"] if each["name"] == stage)
    return dict(given)


def metrics(run: Path, stage: str = "study") -> Metrics:
    return Metrics.model_validate_json((run / stage / FILE).read_text())


def fidelity(run: Path) -> FidelityResult:
    result = metrics(run).fidelity
    assert result is not None
    return result


def told(distance: Distance) -> str:
    return distance.not_computed or f"FID {distance.fid}, KID {distance.kid}"


def sheet(name: str, rows: list[np.ndarray]) -> None:
    """Rows of images uint8 (n, side, side) as one picture among the results."""
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    cv2.imwrite(str(RESULTS / f"{date.today()}-pggan_{name}.png"), picture)


def look(run: Path) -> None:
    """Real images above drawn ones; and real images above what the latents found for them draw."""
    real, drawn = Dataset.open(run / "real"), Dataset.open(run / "synthetic")
    rows = [real.images(real.of_split("train").head(10)), *(drawn.images(drawn.rows[i : i + 10]) for i in (0, 10, 20))]
    sheet(run.name, rows)
    model, of_image = open_pggan(final_checkpoint(run / "gan", "pggan")), real.rows.set_index("image_id", drop=False)
    rows = []
    for name in ("inverted", "projected"):
        found = Bank.open(run / name).rows.groupby("labels").head(2).head(10)
        latents = torch.from_numpy(np.stack(found["latent"].tolist()))
        rows += [real.images(of_image.loc[found["image_id"]]), model.draw(latents).round().byte().numpy()]
    sheet(f"{run.name}_banks", rows)


def print_findings(run: Path) -> None:
    """The judge's AUROC of each finding that was asked for: of real images, of (a), of (c)."""
    studies = {name: metrics(run, f"study_of_{name}").faithfulness for name in ("projected", "inverted")}
    for name, result in studies.items():
        assert result is not None
        for each in (one for one in result.findings if one.synthetic):
            asked = each.synthetic[0]
            said = asked.refused or interval(asked.auroc)
            print(f"{run.name}, {name} latents, {each.finding}: {said}; real images {interval(each.trial[0].auroc)}")


def interval(number: Interval | None) -> str:
    return f"{number.value:.2f} ({number.low:.2f} to {number.high:.2f})" if number else "none"


@pytest.fixture(scope="module")
def phantoms(runs: Path) -> Path:
    return finished(config("phantoms", None, runs), runs)


def test_given_phantoms_then_fid_is_a_fifth_of_the_untrained_generators(phantoms: Path, runs: Path) -> None:
    look(phantoms)
    found, reference = fidelity(phantoms), untrained(phantoms, runs)
    print(f"\nphantoms: {told(found.headline)}; floor {told(found.floor)}; {coverage_words(found.headline.coverage)}")
    print(f"phantoms, untrained generator: {told(reference.headline)}")
    assert found.headline.fid is not None
    assert reference.headline.fid is not None
    assert found.headline.fid.value * 5 < reference.headline.fid.value


@torch.no_grad()
def test_given_phantoms_then_no_transition_makes_what_latents_give_jump(phantoms: Path) -> None:
    """The last checkpoint of each scale, and the same weights in the first step of the next."""
    rows, z = [], torch.randn(8, 64, generator=torch.Generator().manual_seed(4))
    for scale, step in enumerate((750, 1500, 2250, 3000)):
        model = pggan.load(checkpoint_at(phantoms / "gan", step))
        assert (model.info.scale, model.info.fade) == (scale, 1.0)
        before = doubled(model.as_grey(model.generator(z, scale))[:, None])[:, 0]
        after = model.as_grey(model.generator(z, scale + 1, 8 / 3000))
        jump = (after - before).abs().max().item()
        print(f"\n{before.shape[-1] // 2} to {before.shape[-1]} px: grey values change by at most {jump:.2f} of 255")
        assert jump < 3
        times = 64 // before.shape[-1]
        rows += [each.round().byte().numpy().repeat(times, 1).repeat(times, 2) for each in (before, after)]
    sheet("transitions", rows)


def test_given_phantoms_never_seen_then_half_are_drawn_better_than_by_their_nearest_training_image(
    phantoms: Path,
) -> None:
    real = Dataset.open(phantoms / "real")
    held_out, train = real.images(real.of_split("test").head(32)), real.images(real.of_split("train")) / np.float32(255)
    settings = InvertStage(**settings_of(phantoms, "inverted"))
    model = open_pggan(final_checkpoint(phantoms / "gan", "pggan"))
    errors = Inverter(model, settings, seed=1).find(held_out).errors
    nearest = np.array([np.square(train - image / np.float32(255)).mean(axis=(1, 2)).min() for image in held_out])
    print(f"\nmean squared error of 32 held-out images: {errors.mean():.5f}, of their nearest training images "
          f"{nearest.mean():.5f}; the search is nearer for {(errors < nearest).sum()}")  # fmt: skip
    assert (errors < nearest).mean() >= 0.5


def test_given_phantoms_then_what_the_judge_sees_of_each_finding_is_told(phantoms: Path) -> None:
    print_findings(phantoms)


def test_given_radiographs_then_the_run_ends_and_is_looked_at(nih_data: Path, runs: Path) -> None:
    data = {"kind": "chestxray14", "metadata": str(nih_data / "metadata"), "images": [str(nih_data / "images_128")]}
    run = finished(config("radiographs", {**data, "missing": "subset", "expect_size": None}, runs), runs)
    look(run)
    found, reference = fidelity(run), untrained(run, runs)
    print(f"\nradiographs: {told(found.headline)}; floor {told(found.floor)}; {copying_alarm(found)}")
    print(f"radiographs, untrained generator: {told(reference.headline)}")
    print_findings(run)


def test_given_ten_kills_then_losses_and_weights_are_those_of_the_undisturbed_run(tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text(KILLED)
    ends = []
    for name in ("undisturbed", "killed"):
        runs = tmp_path / name
        run_nano(path, runs, "--stage", "real")
        if name == "killed":
            seen = kill_at_random_moments(path, runs, "gan", num_kills=10, seed=7)
            print(f"\nreceipts there at each kill: {seen}")
        run_nano(path, runs)
        folder = stage_folder(runs, "gan")
        ends.append((losses(folder), sha256_path(final_checkpoint(folder.path, "pggan"))))
    assert ends[0] == ends[1]
