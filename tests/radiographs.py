"""Small radiographs and tables for tests, in NIH's layout, and a stage run over them."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import jobs.preprocess
from cxr_core.data.problems import read_problems
from cxr_core.data.settings import PreprocessStage
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context

HEADERS = {
    "2017": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
    "v2020": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
    "sample": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y",
}
"""Of Data_Entry_2017.csv, Data_Entry_2017_v2020.csv and sample_labels.csv."""


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """A PNG as Pillow writes it."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(out, "png")
    return out.getvalue()


def deep_png(colour: int, values: np.ndarray) -> bytes:
    """A 16-bit PNG of colour type `colour` from uint16 (height, width, channels), which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey(seed: int, width: int = 32, height: int = 32) -> np.ndarray:
    """Any picture: another one for another seed, neither dark nor bright."""
    return np.random.default_rng(seed).integers(60, 190, (height, width), dtype=np.uint8)


def chest(size: int = 32) -> np.ndarray:
    """A drawing with the light of a frontal radiograph: dark corners and lungs, bright spine and abdomen."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    lungs = np.exp(-(((abs(x - 0.5) - 0.2) / 0.1) ** 2) - ((y - 0.4) / 0.25) ** 2)
    body = 150 * (abs(x - 0.5) < 0.45) * (0.3 + 0.6 * y) + 60 * np.exp(-(((x - 0.5) / 0.07) ** 2))
    return (body * (1 - 0.6 * lungs) + 40 + 10 * np.sin(37 * x * y)).clip(0, 255).astype(np.uint8)


def entry(name: str, labels: str = "No Finding", *, age: str = "57", sex: str = "M", view: str = "PA") -> str:
    """A row of Data_Entry."""
    return f"{name},{labels},{int(name[9:12])},{int(name[:8])},{age},{sex},{view},2682,2749,0.143,0.143"


def write_nih(
    folder: Path,
    rows: Sequence[str],
    *,
    header: str = "v2020",
    test: Sequence[str] = (),
    boxes: Sequence[str] = (),
    images: Mapping[str, bytes] | None = None,
) -> Path:
    """NIH's layout with `rows` of Data_Entry; every image in the lists; `images` beside random ones for the rest."""
    names = list(dict.fromkeys(row.split(",")[0] for row in rows))
    end = "," if header == "2017" else ""
    (folder / "images_001" / "images").mkdir(parents=True)
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADERS[header], *(row + end for row in rows)]) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(name for name in names if name not in test))
    (folder / "test_list.txt").write_text("\n".join(test) or "00099999_000.png")
    (folder / "BBox_List_2017.csv").write_text(
        "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *(f"{box},,," for box in boxes)])
    )
    for number, name in enumerate(names):
        data = (images or {}).get(name, png(grey(number)))
        (folder / "images_001" / "images" / name).write_bytes(data)
    return folder


def stage(data: Mapping[str, Any], **settings: Any) -> PreprocessStage:
    """Settings of a preprocess stage named "real"."""
    given = {"name": "real", "kind": "preprocess", "size": 16, "data": dict(data)} | settings
    return PreprocessStage.model_validate(given)


def nih_stage(folder: Path, *, data: Mapping[str, Any] | None = None, **settings: Any) -> PreprocessStage:
    given = {"kind": "chestxray14", "metadata": folder, "expect_size": None} | dict(data or {})
    return stage(given, **settings)


def run_stage(settings: PreprocessStage, root: Path) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """Run the stage to its end: its folder, its facts, its problems."""
    folder = root / settings.name
    folder.mkdir(parents=True)
    work = Work(StageFolder(folder), jobs.preprocess, Context(settings, {}, 7, folder), {})
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    return folder, finalize(work, plan), read_problems(folder / "problems.csv")


def table_stage(
    folder: Path, text: str, files: Sequence[str], *, data: Mapping[str, Any] | None = None, **settings: Any
) -> PreprocessStage:
    """A table of one's own in `folder`, and files of these paths below `folder`/files, each another picture."""
    for number, name in enumerate(files):
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(grey(number)))
    (folder / "table.csv").write_text(text)
    given = {"kind": "table", "csv": folder / "table.csv", "images": [folder / "files"], "findings": ["Cat", "Dog"]}
    return stage(given | dict(data or {}), **settings)
