"""A registry and an image of the project, made once a session."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.store import Store
from tests.conftest import require
from tests.containers import engines
from tests.containers.engines import APPTAINER, OCI, Registry, lacking
from tests.slurm.conftest import cluster

__all__ = ["cluster"]


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry on loopback that holds one small image."""
    require("oci", not lacking(OCI), lacking(OCI))
    with tempfile.TemporaryDirectory(prefix="cxr-oci-") as folder, engines.registry(Path(folder)) as it:
        yield it


@pytest.fixture(scope="session")
def thin_image() -> Iterator[Path]:
    """A SIF of the project on a bare Debian; its packages, SITE_PACKAGES, are to be bound."""
    require("apptainer", not lacking(APPTAINER), lacking(APPTAINER))
    # Not below pytest's folders, which other users cannot walk into.
    with tempfile.TemporaryDirectory(prefix="cxr-image-") as folder:
        Path(folder).chmod(0o755)
        yield engines.build_thin(Path(folder))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


@pytest.fixture(autouse=True)
def user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run as root, for whom apptainer works in a user namespace only."""
    monkeypatch.setenv("APPTAINER_USERNS", "1")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MB."""
    require("apptainer", os.geteuid() == 0, "only root may mount a file system")
    with tempfile.TemporaryDirectory(prefix="cxr-small-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)
