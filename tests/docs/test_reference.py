"""Pages that the code knows are as the code is, and every command says in its help how it is typed."""

import shlex
import tarfile
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import pytest

from docs.tools.commands import commands, example, shown_commands
from docs.tools.pages import PAGES, REPOSITORY
from docs.tools.run_folder import matches

SHOWN = shown_commands()


@pytest.mark.parametrize("name", PAGES)
def test_given_a_page_that_the_code_knows_when_it_is_written_again_then_nothing_changes(name: str) -> None:
    committed = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert committed == PAGES[name](), f"docs/{name} is of older code: run `make docs-pages`, and commit it"


@pytest.mark.parametrize(("words", "command"), SHOWN, ids=[" ".join(words) for words, _ in SHOWN])
def test_given_the_help_of_a_command_then_its_example_is_one_that_the_command_takes(
    words: tuple[str, ...], command: Any
) -> None:
    typed = list(takewhile(lambda word: word not in (">", "|"), shlex.split(example(command) or "")))
    assert typed[: len(words) + 1] == ["cxr", *words], "its help has no line `Example: cxr ...` of this command"
    given, _ = _taken(typed[1:])
    assert given == words


def test_given_an_option_that_no_command_has_then_the_check_of_examples_sees_it() -> None:
    with pytest.raises(Exception, match="--no-such"):
        _taken(["status", "runs/demo", "--no-such"])


def test_given_a_whole_run_then_each_of_its_files_stands_on_the_page_of_the_run_folder() -> None:
    with tarfile.open(REPOSITORY / "tests" / "fixtures" / "cfcd391" / "runs.tar.xz") as archive:
        names = [name.split("/", 2)[2] for name in (each.name for each in archive if each.isfile())]
    assert len(names) > 100
    assert [name for name in names if not matches(name)] == []


@pytest.mark.parametrize("name", ["notes.txt", "real/notes.txt", "real/receipts/00000.txt", "real/receipts/a/b.json"])
def test_given_a_file_that_no_run_has_then_the_page_does_not_claim_it(name: str) -> None:
    assert not matches(name)


def _taken(typed: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """The words of the command that takes what was typed, and its parsed parameters; the command does not begin."""
    words, command = next(each for each in commands() if tuple(typed[: len(each[0])]) == each[0])
    return words, command.make_context(" ".join(("cxr", *words)), list(typed[len(words) :])).params
