"""What a notebook imports: a run, its Datasets and its models as pandas, Pillow, torch and diffusers have them."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cxr_core
from cxr_core import OpenedRun, UserError, open_dataset, open_model, open_run
from cxr_core.api.scores import scores_of
from cxr_core.data.dataset import Dataset
from tests.conftest import REPOSITORY
from tests.unit.report_run import metrics

OLD = REPOSITORY / "tests" / "fixtures" / "cfcd391" / "runs.tar.xz"
PAGE = REPOSITORY / "docs" / "notebooks.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small run, at `runs/demo` of the folder."""
    folder = tmp_path_factory.mktemp("notebook")
    with tarfile.open(OLD) as archive:
        archive.extractall(folder)  # ours; `filter=` came with Python 3.11.4
    (folder / "runs" / "small").rename(folder / "runs" / "demo")
    return folder / "runs" / "demo"


@pytest.fixture
def run(root: Path) -> OpenedRun:
    return open_run(root)


def test_there_are_ten_names_at_most_and_each_is_explained_on_the_page() -> None:
    public = [name for name in cxr_core.__all__ if not name.startswith("_")]
    assert len(public) <= 10
    page = PAGE.read_text()
    for owner in (OpenedRun, cxr_core.OpenedDataset):
        public += [name for name in vars(owner) if not name.startswith("_")]
    assert [name for name in public if f"`{name}" not in page] == []
    with pytest.raises(AttributeError, match="open_all"):
        cxr_core.open_all  # noqa: B018


def test_importing_the_names_loads_neither_torch_nor_diffusers_and_importing_the_package_no_pandas() -> None:
    code = (
        "import sys, cxr_core; assert 'pandas' not in sys.modules; "
        "from cxr_core import open_run; print(*{'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_example_of_the_page_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(root.parents[1])
    (block,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    picture, drawn, strip = names["picture"], names["drawn"], names["strip"]
    assert (picture.mode, picture.size) == ("L", (32, 32))  # type: ignore[attr-defined]
    assert drawn.size == (32, 32)  # type: ignore[attr-defined]
    assert len(strip) == 4  # type: ignore[arg-type]


def test_given_a_run_then_its_stages_stand_in_the_order_of_the_config(run: OpenedRun) -> None:
    stages = run.stages()
    assert list(stages.index) == ["real", "vae", "latents", "diffusion", "synthetic", "study"]
    assert set(stages["state"]) == {"done"}
    assert (stages["done"] == stages["planned"]).all()
    assert run.config["name"] == "small"


def test_given_a_dataset_then_the_table_has_findings_by_name_and_a_split_is_a_part_of_it(run: OpenedRun) -> None:
    real = run.dataset("real")
    table, labels = real.table(), real.labels()
    assert (len(real), len(table), real.size, real.is_synthetic) == (60, 60, 32, False)
    assert {"patient_id", "view", "age", "sex", "findings", "boxes", "prompt"} <= set(table.columns)
    assert not {"labels", "shard", "offset", "length"} & set(table.columns)
    assert list(labels.columns) == list(real.findings)
    has_effusion = table["findings"].map(lambda names: "Effusion" in names)
    assert has_effusion.any()
    assert (labels["Effusion"] == has_effusion).all()
    parts = [real.table(split) for split in table["split"].unique()]
    assert sorted(pd.concat(parts).index) == sorted(table.index)
    with pytest.raises(UserError, match="no split 'testing'"):
        real.table("testing")


def test_given_an_id_or_a_row_then_the_image_is_the_stored_one_in_grey(run: OpenedRun) -> None:
    real = run.dataset("real")
    stored = Dataset.open(real.path)
    row = stored.rows.iloc[3]
    for asked in (row["image_id"], real.table().loc[row["image_id"]]):
        assert np.array_equal(np.asarray(real.image(asked)), stored.image(row))
    with pytest.raises(UserError, match="no image 'nobody'"):
        real.image("nobody")


def test_given_torch_then_workers_give_pixels_and_labels_in_the_order_of_the_table(run: OpenedRun) -> None:
    from torch.utils.data import DataLoader

    real = run.dataset("real")
    images = real.torch("train", channels=3)
    table, labels = real.table("train"), real.labels("train")
    (batch,) = DataLoader(images, batch_size=len(images), num_workers=1)
    assert batch["image"].shape == (len(table), 3, 32, 32)
    assert batch["image_id"] == list(table.index)
    assert np.array_equal(batch["labels"].numpy().astype(bool), labels.to_numpy())
    pixels = np.asarray(real.image(table.index[0]), np.float32) / 127.5 - 1
    assert np.allclose(batch["image"][0, 1].numpy(), pixels, atol=1e-6)


def test_given_a_training_then_its_losses_are_a_row_a_step_and_its_checkpoints_say_which_are_kept(
    run: OpenedRun,
) -> None:
    losses, checkpoints = run.losses("diffusion"), run.checkpoints("diffusion")
    assert losses.index.name == "step"
    assert np.isfinite(losses["loss"]).all()
    assert losses.index.max() == checkpoints.index.max()
    assert checkpoints["is_kept"].iloc[-1]
    gone = checkpoints.index[~checkpoints["is_kept"]]
    assert len(gone)
    with pytest.raises(UserError, match=f"step {gone[0]}"):
        run.model("diffusion", int(gone[0]))


def test_given_a_model_then_it_is_a_pipeline_of_diffusers_and_another_folder_is_refused(run: OpenedRun) -> None:
    from diffusers import StableDiffusionPipeline

    assert isinstance(run.model("vae"), StableDiffusionPipeline)
    assert isinstance(open_model("tiny_base"), StableDiffusionPipeline)
    with pytest.raises(UserError, match="real"):
        open_model(run.path / "real")


def test_given_another_kind_or_name_then_what_there_is_is_said(run: OpenedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: real, synthetic"):
        run.dataset("study")
    with pytest.raises(UserError, match="there are: study"):
        run.scores("synthetic")
    with pytest.raises(UserError, match="not a run"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="not a Dataset"):
        open_dataset(tmp_path)


def test_given_metrics_then_each_number_is_found_by_its_name_with_its_interval(run: OpenedRun) -> None:
    assert run.results("study").grids
    assert list(run.scores().columns) == ["stage", "metric", "name", "value", "low", "high"]
    found = metrics("Edema")
    table = pd.DataFrame(scores_of(found)).set_index(["metric", "name"])
    assert table.index.is_unique
    assert {"utility", "benefit", "faithfulness", "fidelity"} <= set(table.index.get_level_values("metric"))
    first = found.utility[0].arms[0]
    assert first.classifier is not None
    names = [name for metric, name in table.index if metric == "utility"]
    row = table.loc[("utility", next(name for name in names if f"arms/{first.arm}/classifier/auroc" in name))]
    assert row.to_dict() == first.classifier.auroc.model_dump()
