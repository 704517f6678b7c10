"""Fixtures shared by all tests. What a machine lacks is skipped with a reason, or fails where CXR_REQUIRE names it."""

import os
from pathlib import Path

import pytest

from tests import order
from tests.pipeline import NANO, run_nano
from tests.slurm import leases

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    order.register(config)
    leases.remember(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    leases.restore(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.longest_first(items)
    order.mark_slow(items)


def require(what: str, present: bool, reason: str) -> None:
    """Skip with `reason` unless `present`; fail instead where the environment's CXR_REQUIRE lists `what`."""
    if present:
        return
    if what in os.environ.get("CXR_REQUIRE", "").split(","):
        pytest.fail(f"CXR_REQUIRE={what}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def nih_data() -> Path:
    """The real part of ChestX-ray14: CXR_TEST_DATA, or `shared/data/nih14` beside the checkout."""
    folder = Path(os.environ.get("CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data" / "nih14"))
    require("data", (folder / "metadata").is_dir(), f"no ChestX-ray14 files at {folder} (set CXR_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def clip_tokenizer(nih_data: Path) -> Path:
    """vocab.json and merges.txt of CLIP's own tokenizer, beside the files of ChestX-ray14."""
    folder = nih_data.parent / "clip_bpe_tokenizer"
    require("data", (folder / "vocab.json").is_file(), f"no tokenizer of CLIP at {folder}")
    return folder


@pytest.fixture(scope="session")
def nano_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of all stages with models so small that it runs in seconds."""
    path = tmp_path_factory.mktemp("config") / "nano.yaml"
    path.write_text(NANO)
    return path


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first stage of that alone, with few images: where something is run, and what it makes is not looked at."""
    path = tmp_path_factory.mktemp("config") / "first.yaml"
    path.write_text(NANO.split("  - name: vae")[0].replace("images: 240", "images: 12").replace("size: 20", "size: 4"))
    return path


@pytest.fixture(scope="session")
def undisturbed(nano_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a nano run that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run_nano(nano_config, runs)
    return runs
