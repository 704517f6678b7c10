"""The study's classifier: a small CNN from scratch (Malik and Humair 2023, arXiv 2305.18927)."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cxr_core.errors import UserError
from cxr_core.evaluation.settings import Utility
from cxr_core.runs.progress import bar
from cxr_core.seeds import derive_seed

_FILTERS = (1, 128, 128, 64, 32)
_WIDTHS = (256, 128, 64, 2)
_BATCH = 64
_ZOOM = 0.2


def study_cnn(image_size: int, seed: int) -> nn.Sequential:
    """Four 3x3 convolutions with 128, 128, 64, 32 filters, each with 2x2 max pooling, then 256-128-64-2.

    Input float32 (n, 1, image_size, image_size) in 0..1, output (n, 2) logits. The first dense layer fits the pooled
    size. Pooling stands before ReLU, which gives the same values from a quarter of the memory. Weights start as in
    Keras (Glorot uniform, zero biases), from a generator of `seed`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(_FILTERS):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    widths = (_FILTERS[-1] * (image_size // 2 ** (len(_FILTERS) - 1)) ** 2, *_WIDTHS)
    layers.append(nn.Flatten())
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    source = torch.Generator().manual_seed(derive_seed(seed, "weights"))
    for weights in model.parameters():
        if weights.ndim > 1:
            nn.init.xavier_uniform_(weights, generator=source)
        else:
            nn.init.zeros_(weights)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(images: np.ndarray, labels: np.ndarray, entry: Utility, seed: int, *, label: str) -> tuple[nn.Module, float]:
    """Train the CNN on uint8 images (n, size, size) and labels 0 or 1. Returns it and the last epoch's mean loss.

    Adam at 0.001, batches of 64, `entry.epochs` passes over `images`, as the study. Start, order and augmentation are
    functions of `seed` and the number of images; `label` names the work.
    Raises UserError naming the step if the loss is not finite.
    """
    device = _device()
    model = study_cnn(images.shape[-1], seed).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels, targets = _as_input(images).to(device), torch.tensor(labels, dtype=torch.long, device=device)
    source = torch.Generator().manual_seed(derive_seed(seed, "order"))
    loss, step = float("nan"), 0
    with bar(label, entry.epochs) as progress:
        for _ in range(entry.epochs):
            total = 0.0
            for batch in torch.randperm(len(images), generator=source).split(_BATCH):
                step += 1
                inputs = augment(pixels[batch], source) if entry.augment == "study" else pixels[batch]
                error = F.cross_entropy(model(inputs), targets[batch])
                optimizer.zero_grad(set_to_none=True)
                error.backward()
                optimizer.step()
                total += _finite(error.item(), label, step) * len(batch)
            loss = total / len(images)
            progress.advance(loss=loss)
    return model, loss


@torch.inference_mode()
def predict(model: nn.Module, images: np.ndarray, augment_seed: int | None = None) -> np.ndarray:
    """Probability of the finding for uint8 images (n, size, size): float64 (n,).

    Images are taken as they are, or, with `augment_seed`, augmented as the study's code also did with test images.
    """
    model.eval()
    pixels = _as_input(images)
    if augment_seed is not None:
        pixels = augment(pixels, torch.Generator().manual_seed(augment_seed))
    parts = [model(part.to(_device())).softmax(dim=1)[:, 1] for part in pixels.split(_BATCH)]
    return torch.cat(parts).cpu().double().numpy()


def augment(images: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Each image flipped left-right and up-down with chance 1/2 each and zoomed by 0.8 to 1.2, as the study did."""
    num = len(images)
    flips = torch.randint(2, (num, 2), generator=source) * 2 - 1
    zoom = 1 + _ZOOM * (2 * torch.rand(num, 1, generator=source) - 1)
    grids = F.affine_grid(F.pad(torch.diag_embed(flips / zoom), (0, 1)), list(images.shape), align_corners=False)
    return F.grid_sample(images, grids.to(images.device), padding_mode="border", align_corners=False)


def _finite(loss: float, label: str, step: int) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the classifier's loss is {loss} at step {step}",
            where=label,
            hint="run the same command again; if it stops here again, try another device, then other images",
        )
    return loss


def _as_input(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).unsqueeze(1).float().div(255)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
