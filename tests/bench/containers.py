"""Rows of container images: C12 makes the file system of a SIF, C12b unpacks it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from containers.pull import SQUASHFS
from cxr_core.runs.files import sha256_path, size_of
from tests.bench.harness import Peer, Row
from tests.containers.engines import SITE_PACKAGES

PACKAGES = ("numpy", "numpy.libs", "pandas", "PIL")
"""A part of what the image holds: compiled libraries and many small files, as in the whole."""


_MEMORY = Path("/dev/shm")
"""Where there is room in memory: on a disk, the making of many small files drowns what the compression takes."""


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as name:
        folder = Path(name)
        for package in PACKAGES:
            if (SITE_PACKAGES / package).is_dir():
                shutil.copytree(SITE_PACKAGES / package, folder / "tree" / package)
        yield folder


def _make(folder: Path, name: str, *options: str) -> Path:
    out = folder / f"{name}.squashfs"
    words = ["mksquashfs", folder / "tree", out, "-noappend", "-no-progress", "-quiet", *options]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return out


def _unpack(folder: Path, name: str) -> Path:
    out = folder / f"{name}.unpacked"
    words = ["unsquashfs", "-force", "-no-progress", "-quiet", "-dest", out, folder / f"{name}.squashfs"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return out


def _facts(folder: Path) -> dict[str, int]:
    sizes = {f"bytes_{name}": size_of(_make(folder, name, *options.split())) for name, options in _OPTIONS.items()}
    return {"bytes": size_of(folder / "tree"), **sizes}


_OPTIONS = {"product": SQUASHFS, "gzip": ""}


@contextmanager
def c12() -> Iterator[Row]:
    with _workplace() as folder:

        def check() -> None:
            assert sha256_path(_unpack(folder, "product")) == sha256_path(folder / "tree")

        facts = _facts(folder)
        yield Row(
            "C12",
            f"squashfs of {facts['bytes'] / 1e6:.0f} MB of an image",
            lambda: _make(folder, "product", *SQUASHFS.split()),
            (Peer("mksquashfs, default (gzip)", lambda: _make(folder, "gzip"), 5, 5),),
            check,
            facts,
        )


@contextmanager
def c12b() -> Iterator[Row]:
    with _workplace() as folder:
        facts = _facts(folder)

        def check() -> None:
            assert sha256_path(_unpack(folder, "product")) == sha256_path(_unpack(folder, "gzip"))

        yield Row(
            "C12b",
            f"unpack a squashfs of {facts['bytes'] / 1e6:.0f} MB",
            lambda: _unpack(folder, "product"),
            (Peer("of mksquashfs's default (gzip)", lambda: _unpack(folder, "gzip"), 1.3, 1.3),),
            check,
            facts,
        )
