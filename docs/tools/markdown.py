"""Cells, tables and anchors of Markdown."""

import re
import textwrap
from collections.abc import Iterable, Sequence

NOTE = "<!-- Written by `python -m docs.tools`: change the code that it describes, not this page. -->"
"""Stands at the top of each page that is written by a program."""


def cell(text: str) -> str:
    """Text on one line that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """The same between backticks."""
    return f"`{cell(text)}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. Cells are Markdown already."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def paragraph(text: str) -> list[str]:
    """A docstring as lines of a page."""
    return textwrap.wrap(linked(" ".join(text.split())), 120, break_long_words=False, break_on_hyphens=False)


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def linked(text: str) -> str:
    """A docstring as Markdown: angle brackets and asterisks stay what they are."""
    return re.sub(r"(`[^`]*`)|([<*])", lambda found: found[1] or "\\" + found[2], text)


def without_code(text: str) -> str:
    """The text with code blocks and code between backticks left out, line by line as it was."""
    blank = re.sub(_BLOCK, lambda found: "\n" * found[0].count("\n"), text, flags=_LINES)
    return re.sub(r"`[^`\n]*`", "", blank)


def links(text: str) -> list[str]:
    """What the links and pictures of a page lead to."""
    return re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", without_code(text))


def anchors(text: str) -> set[str]:
    """The anchors of a page: of its headings, where the second of one name ends in -1."""
    blank = re.sub(_BLOCK, "", text, flags=_LINES)
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*?) *#*$", blank, re.MULTILINE):
        name = anchor(heading)
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return {*found, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", blank)}


_BLOCK = r"^( *)(```+|~~~+).*?^\1\2 *$"
"""A block of code."""
_LINES = re.MULTILINE | re.DOTALL
