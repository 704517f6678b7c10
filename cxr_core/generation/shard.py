"""One shard of a synthetic Dataset: its rows of the list in fixed batches, sampled, checked, written."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from cxr_core.data.dataset import dataset_digest, write_parquet
from cxr_core.data.findings import Findings
from cxr_core.data.problems import problem
from cxr_core.errors import UserError
from cxr_core.generation.sampler import Model, decode, encode_prompts, load_model, sample
from cxr_core.generation.settings import GenerateStage
from cxr_core.generation.writer import BackgroundWriter
from cxr_core.runs.files import canonical_json
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output

Batch: TypeAlias = Sequence[Mapping[str, Any]]
"""Rows of the list that are sampled together."""

_BLANK = 1.0
"""An image whose grey values have a smaller standard deviation (of 255) shows nothing."""


@dataclass
class Clock:
    """Seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self.seconds.items()}


def generate_shard(
    settings: GenerateStage, checkpoint: Path, images: pa.Table, facts: Mapping[str, Any], work: Path
) -> Output:
    """Draw `images` (rows of the frozen list) into `work`: a tar, its rows, and the names of blank images.

    `facts` holds the dataset's `findings` and what each image records of its making (`generation`). Raises UserError
    naming the images where the model gives NaN.
    """
    torch.set_num_threads(settings.threads)
    clock = Clock()
    problems: list[dict[str, str]] = []
    with clock.part("load"):
        model = load_model(checkpoint, settings.dtype)
    with clock.part("prompts"):
        texts = encode_prompts(model, ["", *images["prompt"].to_pylist()])
    writer = BackgroundWriter(work / "images.tar", Findings(tuple(facts["findings"])))
    with writer, bar(f"{settings.name}: images", len(images)) as progress:
        for batch in _batches(images, settings.batch_size):
            greys = _draw(model, texts, batch, settings, clock)
            problems += _blank(greys, batch)
            for row, pixels in zip(batch, to_uint8(greys), strict=True):
                writer.put(pixels, _row(row, facts["generation"]))
            progress.advance(len(batch))
    rows = writer.rows()
    write_parquet(work / "rows.parquet", rows)
    return Output(
        paths={"tar": work / "images.tar", "rows": work / "rows.parquet"},
        digest=dataset_digest(rows.to_pandas()),
        counts={"images": len(images), "blank": len(problems)},
        problems=problems,
        seconds={**clock.rounded(), "waiting for the writer": round(writer.waited, 3)},
    )


def to_uint8(greys: np.ndarray) -> np.ndarray:
    """Grey values float 0..255, rounded to uint8."""
    return np.rint(greys).astype(np.uint8)


def _batches(images: pa.Table, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(images), batch_size):
        yield images.slice(start, batch_size).to_pylist()


def _draw(
    model: Model,
    texts: Mapping[str, torch.Tensor],
    batch: Batch,
    settings: GenerateStage,
    clock: Clock,
) -> np.ndarray:
    with clock.part("sample"):
        latents = sample(
            model,
            torch.cat([texts[row["prompt"]] for row in batch]),
            texts[""],
            [row["seed"] for row in batch],
            scheduler=settings.scheduler,
            steps=settings.steps,
            guidance=settings.guidance,
        )
    with clock.part("decode"):
        greys = decode(model, latents)
    _refuse_nan(greys, batch, settings.dtype)
    return greys


def _refuse_nan(greys: np.ndarray, batch: Batch, dtype: str) -> None:
    failed = [row["image_id"] for row, grey in zip(batch, greys, strict=True) if not np.isfinite(grey).all()]
    if failed:
        overflow = f"set dtype: float32, since {dtype} overflows early; " if dtype != "float32" else ""
        raise UserError(
            f"the model gives NaN for {len(failed)} of {len(batch)} images: {', '.join(failed[:10])}",
            mend=f"{overflow}a checkpoint that diverged cannot be used: take an earlier one",
        )


def _blank(greys: np.ndarray, batch: Batch) -> list[dict[str, str]]:
    spread = greys.std(axis=(1, 2))
    return [
        problem("blank", row["image_id"], "", f"grey values spread by only {value:.2f} of 255", "kept")
        for row, value in zip(batch, spread, strict=True)
        if value < _BLANK
    ]


def _row(row: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the Dataset's `SCHEMA` from a row of the list; what a synthetic image does not have is empty."""
    return {
        **row,
        "patient_id": "",
        "split": "synthetic",
        "age": None,
        "sex": "",
        "follow_up": None,
        "boxes": [],
        "generation": canonical_json({**generation, "draw": 0}),
        "source_sha256": "",
    }
