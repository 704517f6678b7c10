"""Pages that the code knows are as the code is, and every command says in its help how it is typed."""

import shlex
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import pytest

from docs.tools.commands import commands, example, shown_commands
from docs.tools.pages import PAGES, REPOSITORY

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


def _taken(typed: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """The words of the command that takes what was typed, and its parsed parameters; the command does not begin."""
    words, command = next(each for each in commands() if tuple(typed[: len(each[0])]) == each[0])
    return words, command.make_context(" ".join(("cxr", *words)), list(typed[len(words) :])).params
