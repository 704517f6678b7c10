"""The whole of nih14_small.yaml on real radiographs of 128 px; `make proof TARGET=nih14_small`, a quarter of an hour.

CXR_PROOF_RUNS names a folder for the run, to look at it afterwards; a run that is there is gone on with.
"""

import json
import os
from pathlib import Path

import pytest

from cxr_core.data.dataset import Dataset
from cxr_core.data.latents import LatentCache
from tests.pipeline import cxr

pytestmark = pytest.mark.proof


def test_given_real_radiographs_then_the_run_ends_in_a_report_and_test_patients_are_kept_out(
    nih_data: Path, tmp_path: Path
) -> None:
    runs = Path(os.environ.get("CXR_PROOF_RUNS", tmp_path))
    environ = os.environ | {"CXR_NIH14": str(nih_data / "metadata"), "CXR_NIH14_IMAGES": str(nih_data / "images_128")}
    done = cxr("run", "nih14_small", "--runs", runs, env=environ, timeout=3600)
    assert done.returncode == 0, done.stderr
    run = runs / "nih14_small"
    assert done.stdout.strip().endswith("report.html")
    assert (run / "report.html").stat().st_size > 100_000

    real, cache = Dataset.open(run / "real"), LatentCache.open(run / "latents")
    assert set(cache.rows["split"]) == {"train", "val"}
    official = set((nih_data / "metadata" / "test_list.txt").read_text().split())
    in_test = real.rows["image_id"].isin({Path(name).stem for name in official})
    assert (in_test == (real.rows["split"] == "test")).all()
    patients = [set(group["patient_id"]) for _, group in real.rows.groupby("split")]
    assert sum(map(len, patients)) == len(set.union(*patients))
    _print(run)


def _print(run: Path) -> None:
    for stage in ("real", "vae", "latents", "diffusion", "synthetic", "study"):
        facts = json.loads((run / stage / "stage.json").read_text())
        facts.pop("problems" if stage != "real" else "swept", None)
        print(f"\n{stage}: {json.dumps(facts)}")
    metrics = json.loads((run / "study" / "metrics.json").read_text())
    for entry in metrics["utility"]:
        print(f"\n{entry['finding']} n = {entry['num_images']}: not run: {entry['not_run']}")
        for arm in entry["arms"]:
            view = (arm["view_only"] or {}).get("auroc")
            print(f"  {arm['arm']}: {arm['not_run'] or arm['classifier']} view only: {view}")
        print(f"  value of synthetic: {entry['value_of_synthetic']}, at equal epochs: {entry['value_at_equal_epochs']}")
