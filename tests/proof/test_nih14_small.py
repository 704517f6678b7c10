"""The whole of nih14_small.yaml on real radiographs of 128 px; `make proof TARGET=nih14_small`, most of an hour.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.latents import LatentCache
from cxr_core.evaluation.metrics import FILE, Distance, FidelityResult, Metrics
from cxr_core.report.verdicts import copying_alarm, coverage_words
from cxr_core.runs.files import read_json
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

UNTRAINED = """
name: untrained
seed: 14
stages:
  - name: synthetic
    kind: generate
    inputs: {{model: {run}/vae_scratch, like: {run}/real}}
    request:
      counts: {{No Finding: 400, Effusion: 100, Infiltration: 100, Cardiomegaly: 40}}
    denoising_steps: 20
    guidance: 2.0
    batch_size: 32
    shard_size: 160
  - name: study
    kind: evaluate
    inputs: {{real: {run}/real, synthetic: synthetic, judge: {run}/judge}}
    faithfulness: {{}}
    fidelity: {{}}
"""
"""The same images from a VAE that has learnt radiographs and a denoiser that has learnt nothing."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def run(nih_data: Path, runs: Path) -> Path:
    environ = os.environ | {"CXR_NIH14": str(nih_data / "metadata"), "CXR_NIH14_IMAGES": str(nih_data / "images_128")}
    done = cxr("run", "nih14_small", "--runs", runs, env=environ, timeout=7200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")
    print(f"\n{done.stdout}".replace(str(runs), "RUNS"))
    return runs / "nih14_small"


@pytest.fixture(scope="module")
def untrained(run: Path, runs: Path) -> FidelityResult:
    config = runs / "untrained.yaml"
    config.write_text(UNTRAINED.format(run=run))
    done = cxr("run", config, "--runs", runs, timeout=3600)
    assert done.returncode == 0, done.stderr
    return _fidelity(runs / "untrained" / "study")


def test_given_real_radiographs_then_the_run_ends_in_a_report_and_test_patients_are_kept_out(
    nih_data: Path, run: Path
) -> None:
    assert (run / "report.html").stat().st_size > 100_000
    real = Dataset.open(run / "real")
    for cache in (LatentCache.open(run / "latents"), LatentCache.open(run / "latents_scratch")):
        assert set(cache.rows["split"]) == {"train", "val"}
    official = set((nih_data / "metadata" / "test_list.txt").read_text().split())
    in_test = real.rows["image_id"].isin({Path(name).stem for name in official})
    assert (in_test == (real.rows["split"] == "test")).all()
    patients = [set(group["patient_id"]) for _, group in real.rows.groupby("split")]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_given_the_base_or_random_weights_then_fid_is_a_third_of_an_untrained_models(
    run: Path, untrained: FidelityResult
) -> None:
    found = {name: _fidelity(run / name) for name in ("study", "study_scratch")} | {"untrained": untrained}
    for name, result in found.items():
        print(f"\n{name}: synthetic {_told(result.headline)}; at the floor's n {_told(result.beside_floor)}")
        print(
            f"{name}: floor {_told(result.floor)}; {coverage_words(result.headline.coverage)}; {copying_alarm(result)}"
        )
    reference = untrained.headline.fid
    assert reference is not None
    for name in ("study", "study_scratch"):
        fid = found[name].headline.fid
        assert fid is not None
        assert fid.value * 3 < reference.value


@pytest.mark.parametrize("study", ["study", "study_scratch"])
def test_given_real_test_patients_then_the_judge_is_tried_before_it_speaks(run: Path, study: str) -> None:
    result = _metrics(run / study).faithfulness
    assert result is not None
    assert result.split == "test"
    judged = {each.finding: each for each in result.findings}
    for finding in ("Effusion", "Cardiomegaly", "Infiltration"):
        for trial in judged[finding].trial:
            print(
                f"\n{finding}, real, {trial.within}: {trial.auroc} ({trial.num_with} with, {trial.num_without} without)"
            )
        for contrast in judged[finding].synthetic:
            print(f"{finding}, synthetic, {contrast.within}: {contrast.verdict}")
        assert judged[finding].trial[0].auroc is not None


def test_the_studys_table_is_made_where_there_are_images_enough(run: Path) -> None:
    edema, effusion = _metrics(run / "study").utility
    print(f"\nEdema: {edema.model_dump_json(exclude={'arms'})}")
    assert edema.not_run is not None
    print(f"\nEffusion: {effusion.model_dump_json(exclude={'arms'})}")
    for arm in effusion.arms:
        print(arm.model_dump_json(exclude={"seeds"}))
    assert all(arm.classifier is not None for arm in effusion.arms)
    facts = {stage.parent.name: read_json(stage)["seconds"] for stage in sorted(run.glob("*/stage.json"))}
    print(f"\nseconds: {facts}")


def _metrics(stage: Path) -> Metrics:
    return Metrics.model_validate_json((stage / FILE).read_text())


def _fidelity(stage: Path) -> FidelityResult:
    result = _metrics(stage).fidelity
    assert result is not None
    return result


def _told(distance: Distance) -> str:
    return distance.not_computed or f"FID {distance.fid}, KID {distance.kid}"
