"""Rows of preprocessing: C1 and C1b the whole stage, C2 the PNG writer."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import jobs.preprocess
from cxr_core.data.dataset import Dataset
from cxr_core.data.png import encode_grey
from cxr_core.data.settings import PreprocessStage
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context
from tests.bench.harness import Peer, Row
from tests.conftest import REPOSITORY

NUM_IMAGES, SIZE = 40, 512


@contextmanager
def _workplace() -> Iterator[tuple[Path, list[Path], str]]:
    """A folder with `NUM_IMAGES` originals of 1024 px: real ones where there are any, else phantoms."""
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder, "originals")
        originals.mkdir()
        real = Path(os.environ.get("CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data" / "nih14")) / "images_1024"
        kind = "ChestX-ray14" if real.is_dir() else "phantoms"
        _copy_real(real, originals) if real.is_dir() else _draw_phantoms(originals)
        yield Path(folder), sorted(originals.iterdir()), kind


def _copy_real(real: Path, out: Path) -> None:
    for path in sorted(real.glob("*.png"))[:NUM_IMAGES]:
        shutil.copyfile(path, out / path.name)


def _draw_phantoms(out: Path) -> None:
    from cxr_core.data.phantom import Case, population, read_bytes

    for row in population(NUM_IMAGES, seed=1).to_dict("records"):
        (out / f"{row['image_id']}.png").write_bytes(read_bytes(Case.from_row(row, seed=1), 1024))


def _stage(folder: Path, originals: list[Path], threads: int) -> PreprocessStage:
    table = folder / "table.csv"
    lines = [f"{path.name},{path.name[:8]},No Finding,PA" for path in originals]
    table.write_text("\n".join(["image,patient,labels,view", *lines]) + "\n")
    data = {"kind": "table", "csv": table, "images": [folder / "originals"], "findings": ["Edema"]}
    settings = {"name": "real", "kind": "preprocess", "data": data, "size": SIZE, "threads": threads}
    return PreprocessStage.model_validate(settings)


def _preprocess(folder: Path, settings: PreprocessStage) -> None:
    """The stage as a run does it: plan, images, tar, hashes, fsync, receipts, index."""
    stage = folder / settings.name
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    work = Work(StageFolder(stage), jobs.preprocess, Context(settings, {}, 0, stage), {})
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)


def _saved(folder: Path, name: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _pillow_rgb(originals: list[Path], out: Path) -> None:
    for path in originals:
        Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(out / path.name)


def _pillow_reduce(originals: list[Path], out: Path) -> None:
    for path in originals:
        Image.open(path).convert("L").reduce(2).save(out / path.name, compress_level=1)


def _opencv(originals: list[Path], out: Path) -> None:
    for path in originals:
        cv2.imwrite(str(out / path.name), _opencv_half(path))


def _opencv_half(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


@contextmanager
def c1() -> Iterator[Row]:
    with _workplace() as (folder, originals, kind):
        settings, out = _stage(folder, originals, threads=2), _saved(folder, "pillow")
        yield Row(
            "C1",
            f"{NUM_IMAGES} PNG of 1024 px to a Dataset of {SIZE} px, 2 threads",
            lambda: _preprocess(folder, settings),
            (Peer("Pillow loop: RGB, LANCZOS, default PNG", lambda: _pillow_rgb(originals, out), 5, 6),),
            facts={"data": kind, "num_images": NUM_IMAGES},
        )


@contextmanager
def c1b() -> Iterator[Row]:
    with _workplace() as (folder, originals, kind):
        settings = _stage(folder, originals, threads=2)
        pillow, opencv = _saved(folder, "pillow"), _saved(folder, "opencv")
        alone = _stage(folder, originals, threads=1).model_copy(update={"name": "alone"})

        def check() -> None:
            dataset = Dataset.open(folder / settings.name)
            for row in dataset.rows.itertuples():
                for peer in (pillow, opencv):
                    theirs = np.asarray(Image.open(peer / f"{row.image_id}.png"))
                    assert np.array_equal(dataset.image(row), theirs), f"{row.image_id}: other pixels than {peer.name}"

        yield Row(
            "C1b",
            f"{NUM_IMAGES} PNG of 1024 px to a Dataset of {SIZE} px, 2 threads, identical pixels",
            lambda: _preprocess(folder, settings),
            (
                Peer("Pillow loop: grey, reduce(2), PNG level 1", lambda: _pillow_reduce(originals, pillow), 1.4, 1.6),
                Peer("bare OpenCV loop", lambda: _opencv(originals, opencv), 0.9, 1.0),
                Peer("the product with 1 thread", lambda: _preprocess(folder, alone)),
            ),
            check,
            {"data": kind, "num_images": NUM_IMAGES},
        )


@contextmanager
def c2() -> Iterator[Row]:
    with _workplace() as (_, originals, kind):
        images = [_opencv_half(path) for path in originals]

        def pillow(**options: int) -> int:
            return sum(len(_pillow_png(pixels, **options)) for pixels in images)

        def product() -> int:
            return sum(len(encode_grey(pixels)) for pixels in images)

        def check() -> None:
            for pixels in images:
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_grey(pixels)))), pixels)

        yield Row(
            "C2",
            f"{NUM_IMAGES} grey images of {SIZE} px to PNG bytes",
            product,
            (
                Peer("Pillow, default level", pillow, 9, 10),
                Peer("Pillow, level 1", lambda: pillow(compress_level=1), 1.4, 2),
            ),
            check,
            {"data": kind, "bytes": product(), "bytes_default": pillow(), "bytes_level_1": pillow(compress_level=1)},
        )


def _pillow_png(pixels: np.ndarray, **options: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png", **options)
    return out.getvalue()
