"""The rules of the house: who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOMS = ("cxr_core", "slurm", "containers", "jobs")
MAY_IMPORT = {
    "cxr_core": {"cxr_core"},
    "slurm": {"slurm", "cxr_core"},
    "containers": {"containers", "cxr_core"},
    "jobs": set(ROOMS),
}


def imports_of(path: Path) -> set[str]:
    """Full names of all modules imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for path in (REPOSITORY / room).rglob("*.py"):
        rooms = {name.split(".")[0] for name in imports_of(path)} & {*ROOMS, "tests"}
        assert rooms <= MAY_IMPORT[room], f"{path.relative_to(REPOSITORY)} imports {rooms - MAY_IMPORT[room]}"


def test_planning_status_and_config_import_no_heavy_library() -> None:
    code = "import sys, jobs.config, jobs.launch, jobs.show; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "matplotlib", "scipy", "sklearn"} & set(modules)


def test_help_imports_neither_pydantic_nor_pandas() -> None:
    code = "import sys, jobs.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "numpy", "pydantic", "yaml"} & set(modules)


def test_nothing_names_a_path_of_a_machine_or_a_package_host() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout
    paths = [REPOSITORY / name for name in listed.split("\n") if name.endswith((".py", ".yaml", ".toml", ".md", "run"))]
    words = ("/" + "work/", "/" + "root/", "pypi" + ".org", "python" + "hosted")
    for path in paths:
        text = path.read_text()
        assert not [word for word in words if word in text], path
