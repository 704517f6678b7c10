"""Inception's features from a TorchScript file; a small network that is called in the same way stands for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxr_core.errors import UserError
from cxr_core.evaluation.features import open_feature_model
from cxr_core.evaluation.inception import InceptionFeatures
from cxr_core.runs.files import sha256_file


class Published(nn.Module):
    """Called as NVIDIA's file is: uint8 images of three channels and any size; features where they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 299 * 299, 5)

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        resized = nn.functional.interpolate(images.float(), size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layer(resized.flatten(1) / 255)
        return features if return_features else features.softmax(dim=1)


class Mute(nn.Module):
    """Knows nothing of features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def saved(network: nn.Module, folder: Path) -> Path:
    path = folder / "network.pt"
    torch.jit.script(network).save(str(path))
    return path


def opened(path: Path) -> InceptionFeatures:
    """As if it were what NVIDIA publishes."""
    return InceptionFeatures(path, {sha256_file(path)})


def test_given_the_file_features_are_those_of_its_network_on_three_equal_channels(tmp_path: Path) -> None:
    network = Published()
    feature_model = opened(saved(network, tmp_path))
    assert (feature_model.about.width, feature_model.about.size, feature_model.about.name) == (
        5,
        299,
        "Inception (network.pt)",
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    features, scores = feature_model.encode(images)
    expected = network(torch.from_numpy(np.repeat(images[:, None], 3, axis=1)), return_features=True)
    assert scores is None
    np.testing.assert_allclose(features, expected.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("what", ["no network", "a network without features"])
def test_given_a_file_of_something_else_the_mistake_names_it(tmp_path: Path, what: str) -> None:
    path = saved(Mute(), tmp_path)
    if what == "no network":
        path.write_bytes(b"no network")
    with pytest.raises(UserError, match="not Inception as a TorchScript file"):
        opened(path)
    with pytest.raises(UserError, match=r"could run code when it is opened; its sha256 [0-9a-f]{64} is not"):
        open_feature_model("model", path)
