"""A public class has a name of its own: who reads it knows which one is meant."""

import ast
from collections import defaultdict

from tests.conftest import REPOSITORY

ROOMS = ("containers", "cxr_core", "jobs", "slurm")


def test_a_public_class_name_occurs_once_in_the_project() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path in (path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(path.relative_to(REPOSITORY).as_posix())
    assert len(where) > 300
    assert {name: files for name, files in where.items() if len(files) > 1} == {}
