"""Models given away and models that come with the package."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cxr_core.data.findings import NIH_FINDINGS
from cxr_core.data.words import plain_words
from cxr_core.errors import UserError
from cxr_core.export.model import export_model
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import BUILT_IN, final_checkpoint, has_weights, weights_sha256
from cxr_core.models.presets import TINY
from cxr_core.models.training_data import read_training_data
from cxr_core.runs.files import read_json, size_of
from tests.pipeline import cxr


def test_given_a_finished_run_when_its_model_is_exported_then_it_opens_in_half_the_bytes_with_its_record(
    undisturbed: Path, tmp_path: Path
) -> None:
    source, out = undisturbed / "nano" / "diffusion", tmp_path / "model"
    done = cxr("model", "export", source, out)
    assert done.returncode == 0, done.stderr
    record = read_json(out / "model.json")
    assert record["weights_sha256"] == weights_sha256(out)
    assert record["of_weights_sha256"] == weights_sha256(final_checkpoint(source))
    assert record["run"]["name"] == "nano"
    assert set(record["losses"]) == {"vae", "diffusion"}
    half, full = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (out, final_checkpoint(source))
    )
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in full.items())
    assert stable_diffusion.load(out).unet.dtype == torch.float32
    learnt = read_training_data(final_checkpoint(source))
    assert learnt is not None
    assert read_training_data(out) == learnt.public()
    card = (out / "README.md").read_text()
    for text in (record["weights_sha256"], "run `nano`", "real images of", "Evaluation `", "Not for diagnosis"):
        assert text in card, text


def test_given_a_folder_that_is_there_an_export_is_refused_and_changes_nothing(
    undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="is already there"):
        export_model(undisturbed / "nano" / "diffusion", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_tiny_base_is_small_whole_and_as_recorded() -> None:
    folder = BUILT_IN["tiny_base"]
    record = read_json(folder / "model.json")
    assert size_of(folder) <= 12_000_000
    assert has_weights(folder, record["weights_sha256"])
    assert record["run"]["name"] == "tiny_base"
    assert set(record["losses"]) == {"vae", "words", "diffusion"}
    pipeline = stable_diffusion.load(folder)
    parts = (pipeline.vae, pipeline.unet, pipeline.text_encoder)
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == TINY.num_parameters


@torch.no_grad()
def test_the_tiny_base_tells_the_words_of_findings_apart_far_behind_them() -> None:
    pipeline = stable_diffusion.load(BUILT_IN["tiny_base"])
    start = "frontal chest x-ray, PA view, "
    ids = stable_diffusion.tokenize(pipeline.tokenizer, [start + plain_words(name) for name in (*NIH_FINDINGS, "male")])
    words = pipeline.text_encoder(ids)[0][:, -1]
    distances = torch.cdist(words, words) / words.norm(dim=1).mean()
    assert distances[~torch.eye(len(words), dtype=torch.bool)].min() > 0.3
