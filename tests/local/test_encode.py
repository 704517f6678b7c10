"""What the latent cache refuses."""

from pathlib import Path

import pytest
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.models.stable_diffusion import load, save
from cxr_core.training.encode import encode_rows
from tests.planted import planted_rows, write_planted
from tests.training import SIZE, prompted


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_planted(tmp_path / "real", prompted(planted_rows(6)), size=SIZE)


def test_given_a_vae_whose_latents_are_too_large_the_images_are_named_and_float32_helps(
    tmp_path: Path, nano_base: Path, dataset: Dataset
) -> None:
    pipeline = load(nano_base)
    with torch.no_grad():
        pipeline.vae.quant_conv.bias.fill_(1e6)
    save(pipeline, tmp_path / "base")
    (work := tmp_path / "work").mkdir()
    first = dataset.rows["image_id"].iloc[0]
    with pytest.raises(UserError, match=rf"4 images latents that are not finite as float16: {first}, "):
        encode_rows(tmp_path / "base", dataset, dataset.rows, 4, work, dtype="float16", threads=2)
    encode_rows(tmp_path / "base", dataset, dataset.rows, 4, work, dtype="float32", threads=2)
    assert (work / "moments.npy").is_file()
