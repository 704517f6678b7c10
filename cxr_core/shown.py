"""What others may have written, shown as text: on a terminal, in Markdown, in a table that a spreadsheet opens.

One function a medium. Names of findings, files and stages, log lines and errors pass through it where they are shown;
they stay what they are where programs read them.
"""

import os
import re
import sys
from typing import TextIO


def printable(text: str) -> str:
    """`text` on one line, with characters that steer a terminal, or cannot be encoded, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def terminal(text: str) -> str:
    """Lines of text without anything that steers a terminal: other control characters, and those that turn the
    direction of writing, become escapes."""
    return "\n".join(map(one_line, text.split("\n")))


def one_line(text: str) -> str:
    """The same of a text that is one line: what somebody wrote into a record begins no further one."""
    return "\t".join(map(printable, text.split("\t")))


def say(text: object, *, err: bool = False) -> None:
    """Lines for people, on the screen or in a log, in one piece however narrow the terminal is."""
    file = sys.stderr if err else sys.stdout
    try:
        print(_encodable(terminal(str(text)), file), file=file, flush=True)
    except BrokenPipeError:  # of `cxr logs RUN | head`, or of a task that goes on when its node's daemon has died
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def say_line(text: object) -> None:
    """The same of what must stay one line, such as an event or the name of a file."""
    say(one_line(str(text)))


def emit(text: str) -> None:
    """What programs read (JSON, YAML): exactly, but on a terminal as text."""
    if sys.stdout.isatty():
        say(text.removesuffix("\n"))
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


def _encodable(text: str, file: TextIO) -> str:
    encoding = file.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


_SYNTAX = re.compile(
    r"[\\`*\[\]<>|&~$@]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # within a word it means nothing: Pleural_Thickening
    r"|:(?=//)|(?<=www)\."  # addresses become links by themselves
    r"|^[-+=#]|((?<=^\d)|(?<=^\d\d))[.)](?=\s|$)",  # lists and headings
    re.IGNORECASE | re.ASCII,
)


def markdown(text: str) -> str:
    """Text within a line of Markdown or a cell of its table: no heading, link, image, HTML or further line."""
    return _SYNTAX.sub(lambda found: "\\" + found[0], printable(text))


def markdown_code(text: str) -> str:
    """The same between backticks, where Markdown knows no escapes."""
    return printable(text).replace("`", "'")


def yaml_text(text: str) -> str:
    """A value of a header in YAML: as it stands where that is plain, else quoted."""
    return text if re.fullmatch(r"[A-Za-z][\w ,.-]*", text, re.ASCII) else f'"{in_quotes(text)}"'


def in_quotes(text: str) -> str:
    """What stands between double quotes in YAML or Python."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def csv_cell(text: str) -> str:
    """A cell of a table that people open in a spreadsheet: one that it would take for a formula begins with `'`, as
    one would type it. Numbers stay numbers. `from_csv_cell` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_csv_cell(cell: str) -> str:
    """The text of which `csv_cell` made a cell."""
    return cell[1:] if cell.startswith("'") and csv_cell(cell[1:]) == cell else cell
