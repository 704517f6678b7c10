"""The lock files that are kept: complete, hashed, and in step with pyproject.toml."""

import hashlib
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from containers.lock import Target, lock_path, make_lock, packages
from cxr_core.errors import UserError
from tests.conftest import REPOSITORY

TARGETS: tuple[Target, ...] = ("cpu", "cuda")


def asked(target: Target) -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["gpu"] if target == "cuda" else []
    return [Requirement(text) for text in [*project["dependencies"], *extra]]


@pytest.mark.parametrize("target", TARGETS)
def test_every_dependency_of_the_project_is_pinned_to_a_version_that_it_allows(target: Target) -> None:
    pinned = packages(lock_path(REPOSITORY, target))
    for requirement in asked(target):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: run `cxr image lock --target {target}`"


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_has_a_hash_and_none_names_a_host(target: Target) -> None:
    lines = lock_path(REPOSITORY, target).read_text().splitlines()[1:]
    unhashed = [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+]+( --hash=sha256:[0-9a-f]{64})+", line)]
    assert unhashed == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_builds_packages_of_source_is_locked_too(target: Target) -> None:
    assert {"setuptools", "wheel"} <= set(packages(lock_path(REPOSITORY, target)))


def test_the_images_of_both_targets_differ_in_torch_and_what_it_brings() -> None:
    cpu, cuda = (packages(lock_path(REPOSITORY, target)) for target in TARGETS)
    assert cpu["torch"].endswith("+cpu")
    assert not [name for name in cpu if name.startswith("nvidia-")]
    assert [name for name in cuda if name.startswith("nvidia-nccl")]


def wheel(folder: Path, name: str, version: str, *needs: str) -> str:
    """A wheel of nothing but its metadata; returns its sha256."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that needs torch, and on a GPU xformers; all packages that there are lie in its folder `wheels`."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("setuptools", "wheel", "xformers", "needed_by_torch"):
        wheel(wheels, name, "1.0")
    (tmp_path / "containers").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'tiny'\nversion = '1'\ndependencies = ['torch>=2']\n"
        "[project.optional-dependencies]\ngpu = ['xformers']\n"
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    for name, value in {"NO_INDEX": "1", "OFFLINE": "1", "CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    return tmp_path


def test_given_a_checkout_then_its_lock_holds_what_it_needs_by_the_files_sha256(checkout: Path) -> None:
    wheel(checkout / "wheels", "torch", "1.9")
    sha256 = wheel(checkout / "wheels", "torch", "2.1", "needed-by-torch==1.0")
    header, *lines = make_lock(checkout, "cpu").read_text().splitlines()
    assert "cxr image lock --target cpu" in header
    assert f"torch==2.1 --hash=sha256:{sha256}" in lines
    assert list(packages(lock_path(checkout, "cpu"))) == ["needed-by-torch", "setuptools", "torch", "wheel"]
    assert "xformers" in packages(make_lock(checkout, "cuda"))


def test_given_a_cpu_build_of_torch_then_the_cuda_image_is_not_locked_and_the_cpu_image_is(checkout: Path) -> None:
    wheel(checkout / "wheels", "torch", "2.1+cpu")
    with pytest.raises(UserError, match=r"cuda\.lock.*\n.*PIP_FIND_LINKS"):
        make_lock(checkout, "cuda")
    assert not lock_path(checkout, "cuda").exists()
    assert packages(make_lock(checkout, "cpu"))["torch"] == "2.1+cpu"


def test_given_a_package_that_nobody_has_then_the_lock_stays_and_the_package_is_named(checkout: Path) -> None:
    lock_path(checkout, "cpu").write_text("# the one before\n")
    with pytest.raises(UserError, match=r"pyproject\.toml: (.|\n)*torch"):
        make_lock(checkout, "cpu")
    assert lock_path(checkout, "cpu").read_text() == "# the one before\n"
