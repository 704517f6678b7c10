"""G4 extracts features of a vision model of RAD-DINO's size, G5 computes all that is made of 50,000 of them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import prdc as published
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BitImageProcessorPil, Dinov2Config, Dinov2Model

from cxr_core.data.dataset import Dataset
from cxr_core.data.neighbours import nearest, unit
from cxr_core.evaluation.distances import fid, kid
from cxr_core.evaluation.diversity.prdc import prdc
from cxr_core.evaluation.features import VisionFeatures, extract
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
    num_looped: int = 500


# G4


def g4(bench: Bench, sizes: Sizes = Sizes()) -> Iterator[Rate]:
    """From PNG in a Dataset to features in memory, in float32, by the extractor and by what scripts do."""
    folder = _vision(bench.folder / "vit", sizes)
    dataset = write_planted(bench.folder / "real", planted_rows(bench.num_images), size=sizes.side)
    gflop, feature_model, threads = _gflop(sizes), VisionFeatures(folder), len(os.sched_getaffinity(0))

    def product() -> int:
        extract(feature_model, dataset, dataset.rows, bench.batch, threads)
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
    """FID, KID of subsets, precision, recall, density, coverage and the nearest neighbour, once each way.

    Images per second are synthetic images by the seconds of all four together. The scripts compute on the CPU, as they
    are; their loop for the nearest neighbour is timed on some images and multiplied.
    """
    draw = np.random.default_rng(SEED)
    real, drawn = (draw.standard_normal((sizes.num_features, sizes.width), np.float32) for _ in range(2))
    pairs = [
        tuple(draw.choice(sizes.num_features, sizes.subset, replace=False) for _ in range(2))
        for _ in range(sizes.num_subsets)
    ]

    weights, same, some = np.ones(sizes.num_features), np.ones(sizes.subset), drawn[: sizes.num_looped]

    def shares(found: Mapping[str, float]) -> dict[str, float]:
        return {name: float(found[name]) for name in ("precision", "recall", "density", "coverage")}

    def near(cosines: np.ndarray) -> dict[str, float]:
        return {"nearest": float(np.mean(cosines[: len(some)]))}

    rate = partial(_timed, "product", sizes.num_features)
    mine, product = rate(
        {
            "FID": lambda: {"fid": fid(drawn, real, weights, weights)},
            "KID": lambda: {"kid": float(np.mean([kid(drawn[a], real[b], same, same) for a, b in pairs]))},
            "precision, recall, density, coverage": lambda: shares(vars(prdc(real, drawn, 5))),
            "nearest": lambda: near(nearest(unit(drawn), lambda: [unit(real)], 1)[0]),
        }
    )
    yield product
    rate = partial(_timed, "scipy's root, numpy, prdc, a loop", sizes.num_features)
    theirs, peer = rate(
        {
            "FID": lambda: {"fid": _fid(drawn, real)},
            "KID": lambda: {"kid": float(np.mean([_kid(drawn[a], real[b]) for a, b in pairs]))},
            "precision, recall, density, coverage": lambda: shares(published.compute_prdc(real, drawn, 5)),
            "nearest": lambda: near(_nearest(some, real)),
        },
        times={"nearest": sizes.num_features / len(some)},
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    yield peer


def _timed(
    who: str, num: int, parts: Mapping[str, Callable[[], dict[str, float]]], times: Mapping[str, float] | None = None
) -> tuple[dict[str, float], Rate]:
    """All values, and the seconds of all parts, each multiplied as `times` says."""
    values, seconds = {}, {}
    for name, part in parts.items():
        start = time.perf_counter()
        values |= part()
        seconds[name] = (time.perf_counter() - start) * (times or {}).get(name, 1)
    told = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    took = sum(seconds.values())
    return values, Rate("G5", f"{who}: {told}", num / took, took, 0.0, {})


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


def _nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosine of each to its nearest, a row at a time."""
    references = unit(y)
    return np.array([(references @ row).max() for row in unit(x)])


ROWS = {"G4": g4, "G5": g5}
