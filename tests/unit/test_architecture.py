"""The rules of the house: who may import whom, and what must stay light."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
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


@cache
def imports_of(path: Path) -> set[str]:
    """Full names of all modules imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


LEVELS = {
    # Of all rooms: plain words, seeds, settings, and what may leave. `settings` > `home` > `errors`.
    **dict.fromkeys(("errors", "boundary", "seeds", "shown", "log", "home", "settings"), 0),
    # Reads its files by the door of `runs`, and serves it.
    **dict.fromkeys(("runs", "yamlfile"), 1),
    "data": 2,
    "models": 3,
    **dict.fromkeys(("training", "generation"), 4),
    "evaluation": 5,
    "report": 6,
    # What is given away carries a card, and cards are the report's.
    "export": 7,
    # Of notebooks, which may ask for all that is below.
    "api": 8,
}
"""How high the rooms within `cxr_core` stand: each imports itself and lower ones. Two of one level do not know another.
"""
_NAME = re.compile(r"(?<![\w.])[a-z_]\w*(?:\.[a-z_]\w*)+(?![\w.])")


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its full name; a package by that of its folder."""
    paths = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def strings_of(tree: ast.AST) -> list[str]:
    """All text in code: no docstrings, which may name what they please."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and is_docstring(node)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said)
    return [node.value for node in nodes if isinstance(node.value, str)]


def named_by(source: str, known: frozenset[str]) -> set[str]:
    """The modules among `known` that a module's source needs: by an import, wherever it stands, or in a string."""
    tree, found = ast.parse(source), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= parts & known or {str(node.module)}
    found |= {name for text in strings_of(tree) for name in _NAME.findall(text)}
    return found & known


@cache
def needs() -> dict[str, set[str]]:
    """Module -> the modules of ours that it needs, without `cxr_core` itself, the front door that may name them all."""
    known = frozenset(modules()) - {"cxr_core"}
    return {name: named_by(modules()[name].read_text(), known) - {name} for name in known}


def level_of(module: str) -> int:
    room = module.split(".")[1]
    assert room in LEVELS, f"{module}: say in LEVELS how high {room!r} stands"
    return LEVELS[room]


def test_names_of_modules_are_seen_in_imports_and_in_strings_but_not_in_docstrings() -> None:
    known = frozenset({"jobs.task", "jobs.cli", "slurm.queue", "jobs"})
    source = '"""Of jobs.cli."""\ndef go():\n    from slurm import queue\n    return ["-m", "jobs.task"], f"jobs.{1}"\n'
    assert named_by(source, known) == {"slurm.queue", "jobs.task"}


def test_within_cxr_core_a_room_needs_only_the_rooms_below_it() -> None:
    for module, others in needs().items():
        for other in others if module.startswith("cxr_core.") else ():
            same_room = module.split(".")[:2] == other.split(".")[:2]
            lower = level_of(other) < level_of(module)
            bottom = level_of(other) == level_of(module) <= 1
            assert same_room or lower or bottom, f"{module} needs {other}, which is no room below it"


def test_every_module_of_ours_that_is_imported_is_there_also_where_an_import_waits_in_a_function() -> None:
    for module, path in modules().items():
        for name in imports_of(path):
            assert name.split(".")[0] not in ROOMS or name in modules(), f"{module} imports {name}, which is not there"


def test_no_room_names_a_module_of_a_room_above_it_even_in_a_string() -> None:
    for module, others in needs().items():
        above = {other for other in others if other.split(".")[0] not in MAY_IMPORT[module.split(".")[0]]}
        assert not above, f"{module} names {sorted(above)}"


def test_no_files_need_one_another_in_a_circle() -> None:
    try:
        TopologicalSorter(needs()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(reversed(error.args[1]))}")


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
