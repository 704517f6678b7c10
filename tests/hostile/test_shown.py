"""Names, paths, log lines and cells of others are shown as text, in each medium by one function at its door."""

import ast
import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from cxr_core.data.problems import problem, read_problems, write_problems
from cxr_core.shown import csv_cell, emit, from_csv_cell, markdown, markdown_code, printable, say, terminal, yaml_text
from jobs.show import _table
from tests.conftest import REPOSITORY

ESCAPES = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;owned\x07",
    "writes the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "C1": "\x9b31m",
    "goes back": "good\rbad\x08\x08",
    "turns the direction": "a\u202egnp.exe",
    "isolates": "\u2066x\u2069",
    "no character": "\udcff",
    "line separator": "a\u2028b",
    "deletes": "\x7f",
    "ends": "\x00",
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("show", [say, lambda text: _table(["x"], [[text]], right=1)])
def test_given_text_that_steers_a_terminal_then_it_is_written_as_escapes(
    show: object, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(f"before {text} after")  # type: ignore[operator]
    said = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in said)
    assert "before" in said
    assert "after" in said
    assert "\\" in said


def test_given_words_between_brackets_or_colons_then_they_are_no_style(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("[bold]x[/bold]", "[link=http://evil]x[/link]", "[/]", ":smile:"):
        _table(["x"], [[name]], right=1)
        say(name)
        assert capsys.readouterr().out.split() == ["x", name, name]


def test_lines_tabs_and_letters_of_all_scripts_stay() -> None:
    text = "Größe\t胸部\nй ø — ✓"
    assert terminal(text) == text


def test_given_a_program_that_reads_then_it_gets_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    emit("{\u00a0: 1}\n")
    assert capsys.readouterr().out == "{\u00a0: 1}\n"


PRINTERS = {"print", "Console", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write"}
SAYERS = {"say", "say_line", "emit", "shown.say", "shown.say_line", "shown.emit"}
LOGS = {"logging.getLogger", "logging.basicConfig", "getLogger", "basicConfig"} | {
    f"logging.{level}" for level in ("debug", "info", "warning", "error", "exception", "critical", "log")
}

PRINTS = {"cxr_core/shown.py", "cxr_core/runs/progress.py", "jobs/show.py", "containers/audit.py"}
"""The second and the third draw with rich, and give it escaped text; the last is a program of the standard library."""
SAYS = {"cxr_core/shown.py", "cxr_core/log.py", "cxr_core/runs/progress.py", "containers/selftest.py"}
"""Beside `jobs`: what shows records, what shows progress, and a program."""


def calls_of(rooms: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """File, function and line of each call."""
    for path in (path for room in rooms for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(REPOSITORY)), ast.unparse(node.func), node.lineno


def test_nothing_is_printed_but_by_the_writers_and_the_rooms_of_the_library_log_what_jobs_say() -> None:
    found = []
    for name, function, line in calls_of(("cxr_core", "containers", "slurm", "jobs")):
        is_job = name.startswith("jobs/")
        is_wrong = (
            (function in PRINTERS and name not in PRINTS)
            or (function in SAYERS and name not in SAYS and not is_job)
            or (function in LOGS and name != "cxr_core/log.py")
        )
        found += [f"{name}:{line} {function}"] if is_wrong else []
    assert found == []


MARKDOWN = [
    "# Heading",
    "a\n# Heading",
    "a\n\n<h1>x</h1>",
    "![x](http://evil/p.png)",
    "[x](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "http://evil.org",
    "www.evil.org",
    "a@evil.org",
    "@everyone",
    "a | b",
    "*bold* _em_ ~~x~~ `code`",
    "&lt;b&gt;",
    "---",
    "===",
    "- item",
    "1. item",
    "\\",
    "a\\",
    "\x1b[2J",
    "$x$",
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", MARKDOWN)
def test_given_markup_in_a_name_then_markdown_shows_it_as_text(text: str) -> None:
    commonmark = pytest.importorskip("markdown_it", reason="no reader of Markdown is installed")
    reader = commonmark.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for page in (f"- {markdown(text)}: 5", f"{markdown(text)}", f"| a | b |\n|---|---|\n| {markdown(text)} | 5 |"):
        seen = Tags()
        seen.feed(reader.render(page))
        assert set(seen.tags) <= {"ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert seen.tags.count("td") in (0, 2)
        assert terminal(text).replace("\n", "\\n").strip() in seen.text
    assert "http:" not in markdown(text)


@pytest.mark.parametrize("text", ["Pleural_Thickening", "No Finding", "syn-00000042", "a.b", "1.5", "Effusion (left)"])
def test_plain_names_stay_as_they_are_in_markdown(text: str) -> None:
    assert markdown(text) == text


@pytest.mark.parametrize("text", ["a`b", "a\n```\n# x"])
def test_code_in_markdown_ends_where_it_should(text: str) -> None:
    assert "`" not in markdown_code(text)
    assert "\n" not in markdown_code(text)


HEADERS = ["a: b", "x\nevil: 1", '"', "- a", "{a}", "nano, stage diffusion", "\x1b", "\\", "yes: &a"]


@pytest.mark.parametrize("text", HEADERS)
def test_a_value_of_a_header_is_one_text(text: str) -> None:
    assert yaml.safe_load(f"name: {yaml_text(text)}") == {"name": printable(text)}


FORMULAS = ["=cmd|' /C calc'!A1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "=", "-", "-cmd"]
CELLS = ["", "a=b", "'", "'a", "-1.5", "+3", "1e-5", "-.5", "-5e3", "x-ray", " =1"]


@pytest.mark.parametrize("text", FORMULAS + CELLS)
def test_a_cell_is_no_formula_and_is_read_back_as_it_was(text: str) -> None:
    assert from_csv_cell(csv_cell(text)) == text
    is_formula = text[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text)
    assert csv_cell(text)[:1] not in tuple("=+-@\t\r") or not is_formula
    if text in CELLS:
        assert csv_cell(text) == text


def test_given_formulas_in_names_then_problems_csv_shows_them_and_is_read_back(tmp_path: Path) -> None:
    names = [*FORMULAS, *CELLS]
    rows = [problem("unreadable", name, name, name, "left out") for name in names]
    write_problems(tmp_path / "problems.csv", rows)
    with (tmp_path / "problems.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell[:1] in tuple("=+@\t\r") and cell != "+3"] == []
    back = read_problems(tmp_path / "problems.csv")
    assert sorted(back["image_id"]) == sorted(row["image_id"] for row in rows)


def test_a_reader_who_is_gone_ends_nothing() -> None:
    code = "from cxr_core.shown import say\nfor err in (False, True):\n    say('a', err=err), say('b', err=err)"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=write, timeout=60)
    os.close(write)
    assert done.returncode == 0
