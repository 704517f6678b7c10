"""A multi-label classifier of findings: built from a preset with random weights, opened, saved."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from cxr_core.models.classifier_folder import FOLDER, ClassifierInfo, read_info
from cxr_core.models.folder import damaged
from cxr_core.models.initial import seeded
from cxr_core.models.layers import GROUPS, Residual, convolution
from cxr_core.models.presets import CLASSIFIERS
from cxr_core.models.strict import load_weights, save_weights


class Classifier(nn.Module):
    """Convolutions and global average pooling to features, then one linear output per finding."""

    def __init__(self, info: ClassifierInfo, body: nn.Module) -> None:
        super().__init__()
        self.info = info
        self.body = body
        self.head = nn.Linear(info.feature_width, len(info.findings))

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (n, feature_width), for pixels as `as_input` makes them, on the model's device."""
        return self.body(pixels).float()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits float32 (n, num_findings), in the order of `info.findings`."""
        return self.head(self.features(pixels)).float()


def build(preset: str, image_size: int, findings: tuple[str, ...], seed: int) -> Classifier:
    """A classifier with random weights that are a function of all arguments but `image_size`, on the CPU."""
    return _of_info(ClassifierInfo(preset, image_size, findings, CLASSIFIERS[preset].feature_width), seed)


def save(model: Classifier, folder: Path, about: Mapping[str, Any]) -> None:
    """Write `classifier.json` and `classifier.safetensors` into a new folder. Equal weights give equal bytes."""
    folder.mkdir()
    save_weights(model, folder / FOLDER.weights)
    FOLDER.write_info(folder, model.info, about)


def load(folder: Path) -> Classifier:
    """Open a classifier's folder in evaluation mode, on the GPU where there is one.

    Raises UserError if a file is missing or damaged, or if the weights are of another classifier than described.
    """
    info = read_info(folder)
    if info.preset not in CLASSIFIERS:
        raise damaged(folder, f"its preset {info.preset!r} is none of {', '.join(CLASSIFIERS)}")
    if info.feature_width != CLASSIFIERS[info.preset].feature_width:
        raise damaged(folder, f"{info.feature_width} features, but {info.preset} has another number")
    model = _of_info(info, seed=0)
    load_weights(model, folder / FOLDER.weights)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def as_input(images: np.ndarray, image_size: int) -> torch.Tensor:
    """uint8 (n, size, size) -> float32 (n, 1, image_size, image_size) in -1..1, resized where the sizes differ."""
    return torch.from_numpy(resized(images, image_size)).unsqueeze(1).float().div(127.5).sub(1)


def resized(images: np.ndarray, image_size: int) -> np.ndarray:
    """uint8 (n, size, size) -> uint8 (n, image_size, image_size): area averaging to shrink, bilinear to enlarge."""
    if images.shape[1:] == (image_size, image_size):
        return images
    how = cv2.INTER_AREA if image_size < images.shape[1] else cv2.INTER_LINEAR
    out = np.empty((len(images), image_size, image_size), np.uint8)
    for image, place in zip(images, out, strict=True):
        place[:] = cv2.resize(image, (image_size, image_size), interpolation=how)
    return out


def _of_info(info: ClassifierInfo, seed: int) -> Classifier:
    preset = CLASSIFIERS[info.preset]
    with seeded(seed):
        body = _small(preset.channels) if preset.channels else _LIBRARY[preset.name]()
        return Classifier(info, body)


def _small(channels: tuple[int, ...]) -> nn.Module:
    """Each stage halves the image; the first, where pixels are many, is a single convolution with few channels."""
    layers: list[nn.Module] = [nn.Conv2d(1, channels[0], 5, stride=2, padding=2, bias=False)]
    for before, after in pairwise(channels):
        layers += [*convolution(before, after, stride=2), Residual(after)]
    layers += [nn.GroupNorm(GROUPS, channels[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def _densenet121() -> nn.Module:
    """Huang et al. 2017, arXiv 1608.06993, as in CheXNet (Rajpurkar et al., arXiv 1711.05225), for grey images."""
    from monai.networks.nets import DenseNet121  # takes seconds

    layers = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).features
    return nn.Sequential(layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _resnet18() -> nn.Module:
    """He et al. 2016, arXiv 1512.03385, for grey images."""
    from monai.networks.nets import resnet18  # takes seconds

    return resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False)


_LIBRARY = {"resnet18": _resnet18, "densenet121": _densenet121}
