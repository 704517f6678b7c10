"""Fixtures shared by all tests. What a machine lacks is skipped with a reason, or fails where CXR_REQUIRE names it."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


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
