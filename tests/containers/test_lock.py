"""The lock files that are kept: complete, hashed, and in step with pyproject.toml."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from containers.lock import Target, lock_path, packages
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
    unhashed = [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+]+ --hash=sha256:[0-9a-f]{64}", line)]
    assert unhashed == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_builds_packages_of_source_is_locked_too(target: Target) -> None:
    assert {"setuptools", "wheel"} <= set(packages(lock_path(REPOSITORY, target)))


def test_the_images_of_both_targets_differ_in_torch_and_what_it_brings() -> None:
    cpu, cuda = (packages(lock_path(REPOSITORY, target)) for target in TARGETS)
    assert cpu["torch"].endswith("+cpu")
    assert not [name for name in cpu if name.startswith("nvidia-")]
    assert [name for name in cuda if name.startswith("nvidia-nccl")]
