"""Small Datasets with a known answer: grey noise, and a bright square where an image has the planted finding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset, ShardInfo, ShardWriter, pixel_sha256, write_index
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.png import encode_grey
from cxr_core.runs.files import sha256_file

ABOUT = {"prompts": {"style": "clinical"}}


def planted_row(image_id: str, **values: Any) -> dict[str, Any]:
    """A row of the Dataset's schema with everything that a test does not care for."""
    return {
        "image_id": image_id,
        "patient_id": image_id,
        "split": "train",
        "view": "PA",
        "age": 50.0,
        "sex": "F",
        "follow_up": 0,
        "labels": 0,
        "boxes": [],
        "prompt": "",
        "seed": None,
        "request": "",
        "generation": "",
        "source_sha256": "",
        **values,
    }


def planted_rows(num_images: int, *, finding: str = "Effusion", split: str = "train", start: int = 0) -> list[dict]:
    """Every other image has the finding; two images a patient; one in three is AP."""
    rows = []
    for i in range(start, start + num_images):
        labels = NIH.bit(finding) if i % 2 else 0
        view = "AP" if i % 3 == 0 else "PA"
        patient = f"{split}{i // 2:05d}"
        rows.append(planted_row(f"{split}-{i:05d}", patient_id=patient, split=split, view=view, labels=labels))
    return rows


def told_series(learnt: Any) -> list[dict[str, Any]]:
    """What dataset.json says of the series of a Dataset whose model learnt from `learnt` (TrainingData, or None)."""
    drawn = {
        "role": "model",
        "scheduler": "dpmsolver++",
        "steps": 4,
        "guidance": 2.0,
        "model": "c" * 64,
        "num_images": 60,
    }
    request = {"like": "train", "num_images": 60}
    told = learnt.model_dump(mode="json") if learnt else None
    return [{"name": "", "request": request, **drawn, "training_data": told}]


def planted_image(row: Mapping[str, Any], size: int) -> np.ndarray:
    """Noise from the image's id; a bright square at a random place if it has any finding."""
    noise = np.random.default_rng(list(row.get("like", row["image_id"]).encode()))
    pixels = noise.integers(60, 120, (size, size), dtype=np.uint8)
    if row["labels"]:
        side = size // 4
        y, x = noise.integers(0, size - side, 2)
        pixels[y : y + side, x : x + side] = 240
    return pixels


def planted_box(row: Mapping[str, Any], size: int, finding: str = "Effusion") -> dict[str, Any]:
    """The box of the square that `planted_image` draws, in pixels."""
    noise = np.random.default_rng(list(row["image_id"].encode()))
    noise.integers(60, 120, (size, size), dtype=np.uint8)
    y, x = noise.integers(0, size - size // 4, 2)
    return {"finding": finding, "x": float(x), "y": float(y), "w": float(size // 4), "h": float(size // 4)}


def write_planted(
    folder: Path,
    rows: list[dict],
    *,
    size: int = 32,
    findings: Findings = NIH,
    synthetic: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """Draw the images of `rows` and write them as a Dataset of one shard.

    A row's `drawn`, where it has one, is what its picture shows instead of its labels; its `like` the id of the image
    whose noise it has instead of its own; its `pixels` are its picture.
    """
    (folder / "shards").mkdir(parents=True)
    tar = folder / "shards" / "00000.tar"
    with ShardWriter(tar, findings) as writer:
        for given in rows:
            row = {name: value for name, value in given.items() if name not in ("drawn", "like", "pixels")}
            pixels = given.get("pixels")
            if pixels is None:
                pixels = planted_image({**given, "labels": given.get("drawn", row["labels"])}, size)
            facts = {"width": size, "height": size, "pixel_sha256": pixel_sha256(pixels)}
            writer.add(encode_grey(pixels), {**row, **facts})
    table: pd.DataFrame = writer.rows().to_pandas().assign(shard="shards/00000.tar")
    shard: ShardInfo = {
        "name": "shards/00000.tar",
        "bytes": tar.stat().st_size,
        "sha256": sha256_file(tar),
        "num_images": len(rows),
    }
    write_index(
        folder, table, [shard], findings=findings, size=size, synthetic=synthetic, about={**ABOUT, **(about or {})}
    )
    return Dataset.open(folder)
