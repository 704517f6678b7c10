"""Command blocks that a page marks as runnable are run: all of a page in their order, in one new folder.

A block is fenced as ```console runnable. Each line that begins with `$ ` is a command; the lines of a here-document
belong to it, and all other lines are what it prints, which is shown and not compared.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.tools.run_folder import matches
from tests.docs.pages import name, pages

_BLOCK = re.compile(r"^```console runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")


def commands(text: str) -> str:
    """The commands of a page's runnable blocks, a line each but for here-documents."""
    return "".join(line + "\n" for block in _BLOCK.findall(text) for line in _commands(block.splitlines()))


def _commands(lines: list[str]) -> Iterator[str]:
    rest = iter(lines)
    for line in rest:
        if line.startswith("$ "):
            yield line[2:]
            here = _HERE.search(line)
            for inner in rest if here or line.endswith("\\") else ():
                yield inner
                if inner == here[1] if here else not inner.endswith("\\"):
                    break


PAGES = [page for page in pages() if commands(page.read_text(encoding="utf-8"))]


@pytest.mark.skipif(not PAGES, reason="no page marks a block as runnable")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_given_the_runnable_commands_of_a_page_when_they_are_typed_in_a_new_folder_then_each_ends_well(
    page: Path, tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands(page.read_text(encoding="utf-8"))],
        cwd=tmp_path,
        env=os.environ | {"PATH": paths},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{name(page)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert [file for file in _of_runs(tmp_path) if not matches(file)] == []


def _of_runs(folder: Path) -> list[str]:
    """Files of all runs below a folder, from the run's own folder."""
    runs = [config.parent for config in folder.rglob("config.yaml") if (config.parent / "run.json").is_file()]
    return [str(path.relative_to(run)) for run in runs for path in run.rglob("*") if path.is_file()]


def test_given_output_between_commands_and_a_here_document_then_only_what_is_typed_is_run() -> None:
    page = "```console runnable\n$ cat > a <<'EOF'\nb: $ c\nEOF\n$ cat a\nb: $ c\n```\n```console\n$ no\n```\n"
    assert commands(page) == "cat > a <<'EOF'\nb: $ c\nEOF\ncat a\n"


def test_given_a_command_that_fails_in_the_middle_then_the_page_fails(tmp_path: Path) -> None:
    said = commands("```console runnable\n$ false | true\n$ touch after\n```\n")
    done = subprocess.run(["bash", "-euxo", "pipefail", "-c", said], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
