"""G4 extracts features of a vision model of RAD-DINO's size, G5 computes all that is made of 50,000 of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import prdc as published
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BitImageProcessorPil, Dinov2Config, Dinov2Model

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.distances import fid, subset_kids
from cxr_core.evaluation.diversity.prdc import prdc
from cxr_core.evaluation.features import ModelEye, extract
from cxr_core.evaluation.memorisation.neighbours import nearest, unit
from tests.gpu.rows import SEED, Bench
from tests.gpu.steady import Rate
from tests.planted import planted_rows, write_planted


@dataclass(frozen=True)
class Sizes:
    """Of the vision model, its images and what is measured; as they are, RAD-DINO's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    side: int = 518
    num_features: int = 50_000
    subset: int = 1000
    num_subsets: int = 100


# G4


def g4(bench: Bench, sizes: Sizes = Sizes()) -> Iterator[Rate]:
    """From PNG in a Dataset to features in memory, in float32, by the extractor and by what scripts do."""
    folder = _vision(bench.folder / "vit", sizes)
    dataset = write_planted(bench.folder / "real", planted_rows(bench.num_images), size=sizes.side)
    gflop, eye = _gflop(sizes), ModelEye(folder)

    def product() -> int:
        extract(eye, dataset, dataset.rows, bench.batch)
        return len(dataset.rows)

    yield bench.steady("G4", f"product: Dataset to features, batch {bench.batch}", product, gflop)
    for batch in (1, bench.batch):
        yield bench.steady("G4", f"AutoModel in a loop, batch {batch}", _loop(folder, dataset, bench, batch), gflop)


def _vision(folder: Path, sizes: Sizes) -> Path:
    torch.manual_seed(SEED)
    Dinov2Model(_config(sizes)).save_pretrained(folder)
    side = {"height": sizes.side, "width": sizes.side}
    BitImageProcessorPil(size=side, crop_size=side, do_center_crop=False).save_pretrained(folder)
    return folder


def _config(sizes: Sizes) -> Dinov2Config:
    parts = {"num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "patch_size": 14}
    return Dinov2Config(hidden_size=sizes.width, image_size=sizes.side, **parts)


def _gflop(sizes: Sizes) -> float:
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        Dinov2Model(_config(sizes))(torch.empty(1, 3, sizes.side, sizes.side))
    return counter.get_total_flops() / 1e9


def _loop(folder: Path, dataset: Dataset, bench: Bench, batch: int) -> Callable[[], int]:
    processor = BitImageProcessorPil.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).to(bench.device).eval()
    rows = dataset.rows.head(max(batch, 16))

    @torch.no_grad()
    def run() -> int:
        for start in range(0, len(rows), batch):
            some = dataset.images(rows.iloc[start : start + batch])
            coloured = [np.repeat(image[..., None], 3, axis=2) for image in some]
            pixels = processor(images=coloured, return_tensors="pt")["pixel_values"].to(bench.device)
            model(pixels).pooler_output.cpu().numpy()
        return len(rows)

    return run


# G5


def g5(bench: Bench, sizes: Sizes = Sizes()) -> Iterator[Rate]:
    """FID, KID of subsets, precision, recall, density, coverage and the nearest neighbour, once each way, on the CPU.

    Images per second are synthetic images by the seconds of all four together.
    """
    draw = np.random.default_rng(SEED)
    real, drawn = (draw.standard_normal((sizes.num_features, sizes.width), np.float32) for _ in range(2))
    pairs = [
        tuple(draw.choice(sizes.num_features, sizes.subset, replace=False) for _ in range(2))
        for _ in range(sizes.num_subsets)
    ]

    def product() -> dict[str, float]:
        weights = np.ones(sizes.num_features)
        found = prdc(real, drawn, 5)
        references = unit(real)
        similarity, _ = nearest(unit(drawn), lambda: [references], 1)
        kids = subset_kids(drawn, real, pairs)
        values = {"precision": found.precision, "recall": found.recall, "coverage": found.coverage}
        return values | {
            "fid": fid(drawn, real, weights, weights),
            "kid": float(kids.mean()),
            "nearest": float(similarity.mean()),
        }

    def peer() -> dict[str, float]:
        found = published.compute_prdc(real, drawn, 5)
        kids = [_kid(drawn[a], real[b]) for a, b in pairs]
        values = {name: float(found[name]) for name in ("precision", "recall", "coverage")}
        return values | {"fid": _fid(drawn, real), "kid": float(np.mean(kids)), "nearest": _nearest(drawn, real)}

    mine, rate = _timed(sizes, "product: all of them", product)
    yield rate
    theirs, rate = _timed(sizes, "scipy's root, prdc, numpy", peer)
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    yield rate


def _timed(sizes: Sizes, what: str, run: Callable[[], dict[str, float]]) -> tuple[dict[str, float], Rate]:
    start = time.perf_counter()
    values = run()
    took = time.perf_counter() - start
    return values, Rate("G5", what, sizes.num_features / took, took, 0.0, {})


def _fid(x: np.ndarray, y: np.ndarray) -> float:
    """As pytorch-fid computes it."""
    a, b = (np.cov(side.astype(np.float64), rowvar=False) for side in (x, y))
    root = scipy.linalg.sqrtm(a @ b).real
    apart = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    return float(apart @ apart + np.trace(a) + np.trace(b) - 2 * np.trace(root))


def _kid(x: np.ndarray, y: np.ndarray) -> float:
    """As torch-fidelity computes it of one pair of subsets."""
    n, width = x.shape
    within = [((side.astype(np.float64) @ side.T / width + 1) ** 3) for side in (x, y)]
    across = (x.astype(np.float64) @ y.T / width + 1) ** 3
    return float(sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in within) - 2 * across.mean())


def _nearest(x: np.ndarray, y: np.ndarray) -> float:
    """Mean cosine of each to its nearest, a row at a time."""
    references = unit(y)
    return float(np.mean([(references @ row).max() for row in unit(x)]))


ROWS = {"G4": g4, "G5": g5}
