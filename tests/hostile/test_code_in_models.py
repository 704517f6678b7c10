"""A model folder or file of somebody else's that carries code: nothing of it is run, and no file is written."""

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_core.errors import UserError
from cxr_core.evaluation.features import open_feature_model
from cxr_core.evaluation.inception import PUBLISHED, InceptionFeatures
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.models.importing.weights import read_weights
from cxr_core.models.pggan_published import read as read_published
from cxr_core.models.stable_diffusion import load
from tests.vision import small_vit

MARK = "was-here"


class Evil:
    """A pickle that runs a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {MARK}",)


class Program(nn.Module):
    """TorchScript that empties or fills a file as it is opened."""

    @torch.jit.export
    def __getstate__(self) -> int:
        return 0

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = True
        assert int(torch.from_file("was-here", shared=True, size=4, dtype=torch.int32).fill_(7).sum()) > 0

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert int(torch.from_file("was-here", shared=True, size=4, dtype=torch.int32).fill_(7).sum()) > 0
        return images.float().mean(dim=(2, 3))


@pytest.fixture(autouse=True)
def _nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    (tmp_path / MARK).write_text("the victim's own")
    yield
    assert (tmp_path / MARK).read_text() == "the victim's own", "code of the model was run"


def evil_module(folder: Path) -> None:
    (folder / "code.py").write_text(f"open({str(Path(MARK).absolute())!r}, 'w').close()\nclass Evil: pass\n")


def test_a_torchscript_file_is_a_program_and_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Program()).save(str(path))
    with pytest.raises(UserError, match="could run code") as raised:
        open_feature_model("model", path)
    assert "safetensors" in str(raised.value)
    for digest in PUBLISHED:  # one with the published name, or the digest in it, is none either
        shutil.copy(path, tmp_path / digest)
        with pytest.raises(UserError, match="could run code"):
            InceptionFeatures(tmp_path / digest)


@pytest.mark.parametrize("kind", ["a pickle", "a zip with a pickle", "a pipe", "nothing", "a link to a device"])
def test_nor_is_another_file_in_its_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    if kind == "a pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "a zip with a pickle":
        torch.save(Evil(), path)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    with pytest.raises((UserError, OSError)):
        InceptionFeatures(path)


@pytest.mark.parametrize("mapped", ["config.json", "preprocessor_config.json"])
def test_the_code_that_a_vision_models_folder_brings_is_not_run(tmp_path: Path, mapped: str) -> None:
    folder = small_vit(tmp_path / "vit")
    evil_module(folder)
    path = folder / mapped
    names = ("AutoConfig", "AutoModel", "AutoImageProcessor")
    values = json.loads(path.read_text()) | {"auto_map": dict.fromkeys(names, "code.Evil")}
    for more in ({}, {"model_type": "evil", "image_processor_type": "Evil"}):
        path.write_text(json.dumps(values | more))
        try:
            open_feature_model.__wrapped__("model", folder)
        except UserError as error:
            assert str(folder) in str(error)  # noqa: PT017 - to go without that code is as well


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_pickled_weights_of_a_vision_model_are_not_opened(tmp_path: Path, name: str) -> None:
    folder = small_vit(tmp_path / "vit")
    (folder / name).write_bytes(pickle.dumps(Evil()))
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    if name.startswith("adapter"):
        config = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 1, "target_modules": ["query"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="vit"):
        open_feature_model.__wrapped__("model", folder)


@pytest.mark.parametrize("named", ["DiffusionPipeline", "AutoModel", "StableDiffusionPipeline", "loaders", "Evil"])
def test_what_a_base_calls_its_scheduler_is_one(tmp_path: Path, named: str) -> None:
    base = shutil.copytree(BUILT_IN["tiny_base"], tmp_path / "base")
    evil_module(base)
    evil_module(base / "scheduler")
    (base / "scheduler" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {"scheduler": ["code", named]}))
    if named == "Evil":
        load(base)  # only its schedule is used
        return
    with pytest.raises(UserError, match=named) as raised:
        load(base)
    assert "model_index.json" in str(raised.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_of_a_base_are_not_opened(tmp_path: Path, part: str) -> None:
    base = shutil.copytree(BUILT_IN["tiny_base"], tmp_path / "base")
    for path in (base / part).glob("*.safetensors"):
        path.unlink()
    torch.save(Evil(), base / part / "diffusion_pytorch_model.bin")
    torch.save(Evil(), base / part / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles"):
        load(base)


def pickles() -> dict[str, bytes]:
    """The ways in which a checkpoint file may carry a pickle."""
    whole, script = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(1)}, "settings": Evil()}, whole)
    torch.jit.save(torch.jit.script(Program()), script)
    old = io.BytesIO()
    torch.save(Evil(), old, _use_new_zipfile_serialization=False)
    bare = io.BytesIO()
    with zipfile.ZipFile(bare, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Evil()))
        archive.writestr("x/version", "3\n")
    return {"zip": whole.getvalue(), "script": script.getvalue(), "old": old.getvalue(), "bare": bare.getvalue()}


@pytest.mark.parametrize("form", ["zip", "script", "old", "bare"])
@pytest.mark.parametrize("opened", [read_weights, read_published])
def test_an_imported_checkpoint_runs_nothing(tmp_path: Path, form: str, opened: Callable[[Path], object]) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(pickles()[form])
    with pytest.raises(UserError, match=r"model\.ckpt"):
        opened(path)


def test_what_lies_in_the_working_directory_is_no_package(tmp_path: Path) -> None:
    """A task starts with PYTHONSAFEPATH, here and in a container."""
    import subprocess

    for name in ("jobs", "torch", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({MARK!r}, 'w').close()\n")
    environ = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-m", "jobs.cli", "--help"], env=environ, check=True, capture_output=True)
