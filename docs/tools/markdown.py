"""Cells, tables and anchors of Markdown."""

import re
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


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def linked(text: str) -> str:
    """A docstring as Markdown: angle brackets and asterisks stay what they are."""
    return re.sub(r"(`[^`]*`)|([<*])", lambda found: found[1] or "\\" + found[2], text)
