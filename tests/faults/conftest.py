"""The undisturbed run that the disturbed ones are compared with."""

from pathlib import Path

import pytest

from tests.pipeline import NANO, run_nano


@pytest.fixture(scope="session")
def nano_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "nano.yaml"
    path.write_text(NANO)
    return path


@pytest.fixture(scope="session")
def undisturbed(nano_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a nano run that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    run_nano(nano_config, runs)
    return runs
