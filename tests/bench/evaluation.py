"""Rows of evaluation: C6 the Frechet distance, C6b the same with the real side cached, C8 memory for many images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import scipy.linalg
import torch
from prdc import compute_prdc
from torchmetrics.image.fid import FrechetInceptionDistance

from cxr_core.evaluation.distances import Moments, fid, frechet, kid
from cxr_core.evaluation.diversity.prdc import prdc_of_halves
from cxr_core.evaluation.diversity.settings import Diversity
from tests.bench.harness import Peer, Row, peak_bytes

NUM_IMAGES, WIDTH = 20_000, 2048
_NARROW = 64
"""Features an image of C8, where memory goes with the number of images alone."""


@contextmanager
def c6() -> Iterator[Row]:
    yield _frechet("C6", "both sides anew", (5, 8), cached=False)


@contextmanager
def c6b() -> Iterator[Row]:
    yield _frechet("C6b", "the real side cached", (5, 8), cached=True)


@contextmanager
def c8() -> Iterator[Row]:
    real, synthetic = (_features(seed, _NARROW) for seed in (1, 2))
    ones = np.ones(NUM_IMAGES)

    def product() -> object:
        halves = prdc_of_halves(real, synthetic, 5, Diversity().resamples, 0)
        return halves, kid(real, synthetic, ones, ones)

    yield Row(
        "C8",
        f"most memory of precision, recall, density, coverage with intervals and KID, {NUM_IMAGES} images a side",
        product,
        (Peer("prdc, without intervals and KID", lambda: compute_prdc(real, synthetic, nearest_k=5), 8, 20),),
        facts={"width": _NARROW, "unit": "bytes"},
        gauge=peak_bytes,
    )


def _frechet(row_id: str, what: str, goals: tuple[float, float], *, cached: bool) -> Row:
    real, synthetic = (_features(seed, WIDTH) for seed in (1, 2))
    ones = np.ones(NUM_IMAGES)
    kept = Moments.of(real, ones)
    found: dict[str, float] = {}

    def product() -> None:
        a = kept if cached else Moments.of(real, ones)
        b = Moments.of(synthetic, ones)
        found["product"] = frechet(a.mean, a.covariance, b.mean, b.covariance)

    def told(name: str, of: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[], None]:
        def run() -> None:
            found[name] = of(real, synthetic)

        return run

    def check() -> None:
        assert np.isclose(found["product"], fid(real, synthetic, ones, ones, rough=True), rtol=1e-9)
        for name, value in found.items():
            assert np.isclose(value, found["product"], rtol=1e-6), f"{name}: {value}, not {found['product']}"

    peers = (
        Peer("numpy and scipy's sqrtm on the published formula", told("scipy", _scipy), *goals),
        Peer("torchmetrics in float64", told("torchmetrics", _torchmetrics), *goals),
    )
    return Row(row_id, f"FID of {NUM_IMAGES} x {WIDTH} features, {what}", product, peers, check, {"equal to": 1e-6})


def _features(seed: int, width: int) -> np.ndarray:
    """Correlated and not negative, float32 (NUM_IMAGES, width)."""
    root = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32) / np.float32(width**0.5)
    drawn = np.random.default_rng(seed).normal(size=(NUM_IMAGES, width)).astype(np.float32)
    return np.maximum(drawn @ root + np.float32(0.1 * seed), 0)


def _scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Means and covariances by numpy, the root by scipy: what scripts do."""
    (mean_a, a), (mean_b, b) = ((side.mean(axis=0, dtype=np.float64), np.cov(side, rowvar=False)) for side in (x, y))
    root = scipy.linalg.sqrtm(a @ b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


def _torchmetrics(x: np.ndarray, y: np.ndarray) -> float:
    given = torch.nn.Identity()
    given.num_features = WIDTH
    metric = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    for side, is_real in ((x, True), (y, False)):
        for part in np.array_split(side, 20):
            metric.update(torch.from_numpy(part), real=is_real)
    return float(metric.compute())
