"""The ready configs of the study, whole, from nano weights with the files of Stable Diffusion 2.1-base.

`make proof TARGET=study_weights`, about five minutes on two cores. The real files are 32 px instead of 512, and
steps and images are fewer; everything else is as the configs say. CXR_PROOF_RUNS names a folder for the runs.
"""

import os
from pathlib import Path

import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.models.checkpoints import final_checkpoint, vae_sha256, weights_sha256
from cxr_core.runs.files import read_json
from tests.layouts import published_sd21
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

SMALL = ("size=32", "data.missing=subset", "data.expect_size=null")
FINDINGS = ("No Finding", "Edema", "Effusion", "Infiltration", "Cardiomegaly")
STUDY = {
    "words": ("steps=40", "checkpoint_every=20"),
    "images": ("steps=120", "checkpoint_every=40", "keep.every=40"),
    "synthetic": (*(f"request.counts.{name}=16" for name in FINDINGS), "denoising_steps=6", "shard_size=32"),
}
PLACES = {"Mass": ("upper", "middle"), "Nodule": ("middle",), "Effusion": ("middle",), "Pneumothorax": ("upper",)}
UTILITY = ("num_images=60", "num_test=40", "image_size=32", "epochs=1", "seeds=[0]")
POSITIONS = {
    "study": tuple(f"utility.0.{word}" for word in UTILITY),
    "findings": ("steps=40", "batch_size=16", "checkpoint_every=20", "keep.every=20", "warmup_steps=4"),
    "positions": ("steps=20", "batch_size=16", "checkpoint_every=20", "keep.every=20", "warmup_steps=4"),
    "localiser": ("steps=20", "checkpoint_every=20", "warmup_steps=4", "image_size=32"),
    "synthetic": (
        "denoising_steps=4",
        *(f"requests.sd.counts.{name}=8" for name in ("No Finding", *PLACES, "Cardiomegaly")),
        *(
            f"requests.sd_with_position.counts.{name} in the {row} {side}=6"
            for name, rows in PLACES.items()
            for row in rows
            for side in ("left", "right")
        ),
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def base(clip_tokenizer: Path, runs: Path) -> Path:
    folder = runs / "sd21"
    return folder if folder.is_dir() else published_sd21(folder, clip_tokenizer)


def _run(name: str, runs: Path, base: Path, nih_data: Path, overrides: dict[str, tuple[str, ...]]) -> Path:
    environ = os.environ | {"CXR_NIH14": str(nih_data / "metadata"), "CXR_SD21": str(base)}
    words = [f"stages.{stage}.{word}" for stage, each in overrides.items() for word in each]
    words += [f"stages.{stage}.threads=2" for stage in ("latents", *overrides)]
    words += [f"stages.real.data.images=[{nih_data / 'images_128'}]", *(f"stages.real.{word}" for word in SMALL)]
    planned = cxr("plan", name, *words, env=environ)
    assert planned.returncode == 0, planned.stderr
    assert "predicts epsilon, 32 px" in planned.stdout
    done = cxr("run", name, *words, "--runs", runs, env=environ, timeout=7200)
    print(f"\n{planned.stdout}\n{done.stdout}".replace(str(runs), "RUNS"))
    assert done.returncode == 0, done.stderr
    assert (runs / name / "report.html").is_file()
    return runs / name


def test_given_published_files_then_the_whole_study_runs_and_knows_its_vae_again(
    nih_data: Path, base: Path, runs: Path
) -> None:
    run = _run("nih14_study", runs, base, nih_data, STUDY)
    recorded = read_json(run / "latents" / "latents.json")["vae"]
    for stage in ("words", "images"):
        assert vae_sha256(final_checkpoint(run / stage)) == recorded == vae_sha256(base)
    synthetic = Dataset.open(run / "synthetic")
    assert synthetic.info.about["series"][0]["model"] == weights_sha256(final_checkpoint(run / "images"))
    assert synthetic.info.about["series"][0]["prediction"] == "epsilon"
    done = cxr("data", "reproduce", synthetic.folder, synthetic.rows["image_id"].iloc[0], "--out", runs / "again.png")
    assert done.returncode == 0, done.stderr


def test_given_published_files_then_the_whole_run_of_positions_ends_in_its_evaluation(
    nih_data: Path, base: Path, runs: Path
) -> None:
    run = _run("nih14_positions", runs, base, nih_data, POSITIONS)
    recorded = read_json(run / "latents" / "latents.json")["vae"]
    for stage in ("findings", "positions"):
        assert vae_sha256(final_checkpoint(run / stage)) == recorded
    metrics = Metrics.model_validate_json((run / "study" / FILE).read_text())
    assert metrics.position is not None
    names = {one["name"]: one["prediction"] for one in Dataset.open(run / "synthetic").info.about["series"]}
    assert names == {"sd": "epsilon", "sd_with_position": "epsilon"}
