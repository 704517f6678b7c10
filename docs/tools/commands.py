"""docs/reference/commands.md: every command with its example, arguments and options, as `--help` tells them."""

from collections.abc import Iterator
from typing import Any

import typer.main

from docs.tools.markdown import NOTE, anchor, cell, code, linked, paragraph, table
from jobs.cli import app

EXAMPLE = "Example: "


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words of each command and the command, in the order of `cxr --help`; those without a page of help too."""
    yield from _below(typer.main.get_command(app), ())


def shown_commands() -> list[tuple[tuple[str, ...], Any]]:
    """The commands that `--help` shows."""
    return [(words, command) for words, command in commands() if not command.hidden]


def _below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, (*words, name))
        else:
            yield (*words, name), command


def example(command: Any) -> str | None:
    """What a user types, from the help of a command; None where it has no example."""
    lines = (command.help or "").splitlines()
    return next((line.removeprefix(EXAMPLE) for line in lines if line.startswith(EXAMPLE)), None)


def page() -> str:
    """The whole page."""
    shown = shown_commands()
    lines = [
        NOTE,
        "",
        "# Commands",
        "",
        "```sh",
        "cxr --help             # all commands",
        "cxr status --help      # one of them, with an example",
        "```",
        "",
        "A mistake of yours ends a command with exit status 2, a line that says what and where, and what to do.",
        "",
        *table(("command", "does"), (_row(words, command) for words, command in shown)),
        "",
        "## Options before the command",
        "",
        "```sh",
        "cxr --quiet run demo",
        "```",
        *_parameters("option", root := typer.main.get_command(app), _context(root, "cxr")),
    ]
    for words, command in shown:
        lines += ["", *_section(words, command)]
    return "\n".join(lines) + "\n"


def _name(words: tuple[str, ...]) -> str:
    return " ".join(("cxr", *words))


def _row(words: tuple[str, ...], command: Any) -> tuple[str, str]:
    first = (command.help or "").split("\n\n")[0]
    return f"[{code(_name(words))}](#{anchor(_name(words))})", linked(cell(first))


def _section(words: tuple[str, ...], command: Any) -> Iterator[str]:
    name = _name(words)
    context = _context(command, name)
    yield f"## {name}"
    for text in (command.help or "").split("\n\n"):
        if not text.startswith(EXAMPLE):
            yield from ("", *paragraph(text))
    yield from ("", "```sh", example(command) or name, "```")
    yield from _parameters("argument", command, context)
    yield from _parameters("option", command, context)


def _context(command: Any, name: str) -> Any:
    return command.make_context(name, ["--help"], resilient_parsing=True)


_OF_A_SHELL = ("install_completion", "show_completion")
"""Options whose help differs with the shell in which the page is written."""


def _parameters(kind: str, command: Any, context: Any) -> Iterator[str]:
    shown = [each for each in command.params if not each.hidden and each.name not in _OF_A_SHELL]
    found = [each for each in shown if each.param_type_name == kind]
    records = [record for each in found if (record := each.get_help_record(context))]
    if records:
        yield ""
        yield from table((kind, "meaning"), ((code(names), linked(cell(meaning))) for names, meaning in records))
