"""docs/measured.md, from the headers of the results that are kept under tests/proof/results/.

A header is the lines `# key: value` at the top of a result (`#   ...` goes on). They are read in their order: `date`,
`commit`, `machine`, `command` and `about` hold for every figure after them, and each `figure` belongs to the `what`
before it. `picture` names a file beside the result, and `shows` says what is seen on it.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from docs.tools.markdown import NOTE

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "proof" / "results"

SECTIONS = {
    "the whole": "The whole",
    "quality": "What the images are worth",
    "copies": "Copies of training images",
    "kills": "Killed, resumed, shared between ranks",
    "cluster": "On a cluster, and large",
    "speed": "Speed and memory",
    "containers": "Containers",
    "exports": "What others read",
    "tests": "The tests themselves",
    "gpu": "One NVIDIA H200",
}
"""`about` of a header -> heading of its section, in the order of the page."""

KEYS = ("date", "commit", "machine", "command", "about", "what", "figure", "picture", "shows")


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, with all that must be known to measure it again."""

    what: str
    figure: str
    date: str
    commit: str
    machine: str
    command: str
    about: str
    file: str
    has_output: bool


@dataclass(frozen=True)
class Picture:
    """A picture beside a result."""

    file: str
    shows: str
    about: str


def header(text: str) -> list[tuple[str, str]]:
    """Keys and values at the top of a result, in order. Raises ValueError for a line that is neither."""
    found: list[tuple[str, str]] = []
    for line in takewhile(lambda line: line.startswith("# "), text.splitlines()):
        key, colon, value = line[2:].partition(": ")
        if line.startswith("#   ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line[4:].strip()}")
        elif colon and key in KEYS:
            found.append((key, value.strip()))
        else:
            raise ValueError(f"{line!r} is no line of a header: begin it with one of {', '.join(KEYS)}, and a colon")
    return found


def figures_of(path: Path) -> list[Figure | Picture]:
    """What a result says. One without a figure in its header says what pytest's last line does. Raises ValueError."""
    text = path.read_text(encoding="utf-8")
    said = header(text)
    if not said:
        raise ValueError(f"{path.name} has no header: begin it with `# date: ...` (see docs/tools/measured.py)")
    if "figure" not in dict(said):
        last = re.findall(r"^=* ?((?:\d+ \w+,? )+in [\d.]+s.*?) ?=*$", text, re.MULTILINE)
        said.append(("figure", last[-1] if last else "no result"))
    has_output = any(not line.startswith("# ") for line in text.splitlines())
    return list(_read(said, path.name, has_output))


def _read(said: Iterable[tuple[str, str]], file: str, has_output: bool) -> Iterator[Figure | Picture]:
    now = {"commit": "", "machine": "", "command": "", "about": "tests"}
    for key, value in said:
        now[key] = value
        if key == "command":  # what was measured, where no `what` says it
            now["what"] = f"`{value}`"
        if key == "figure":
            if now["about"] not in SECTIONS:
                raise ValueError(f"{file}: about {now['about']!r} is none of {', '.join(SECTIONS)}")
            yield Figure(
                what=now["what"],
                figure=value,
                date=now["date"],
                commit=now["commit"],
                machine=now["machine"],
                command=now["command"],
                about=now["about"],
                file=file,
                has_output=has_output,
            )
        elif key == "shows":
            yield Picture(now["picture"], value, now["about"])


def page() -> str:
    """The whole page."""
    found = [each for path in sorted(RESULTS.glob("*.txt")) for each in figures_of(path)]
    lines = [
        NOTE,
        "",
        "# Measured",
        "",
        "```sh",
        "make proof TARGET=kill      # measure one of these again; without TARGET, their names",
        "make bench ROW=C1           # one row of the benchmarks",
        "```",
        "",
        "Each figure stands here once, with the day, the commit, the machine and the command. Numbers in brackets are",
        "95 % intervals, or the range of several pairs. A ratio is the median of 7 pairs unless it says otherwise: two",
        "threads of ours against one process of the peer. Several runs on the same two cores slow each other down,",
        "more than by half. What was never run at all: [unverified](unverified.md).",
    ]
    for about, heading in SECTIONS.items():
        of_section = [each for each in found if each.about == about]
        if of_section:
            lines += ["", f"## {heading}"]
        for each in of_section:
            lines += ["", *(_figure(each) if isinstance(each, Figure) else _picture(each))]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 140, break_long_words=False, break_on_hyphens=False)


def _figure(each: Figure) -> list[str]:
    what = each.what[0].upper() + each.what[1:]
    origin = f"{each.date}, commit {each.commit}; {each.machine}; `{each.command}`"
    output = f"[output](../tests/proof/results/{each.file})" if each.has_output else "output not kept"
    return [*_wrapped(f"**{what}**"), "", *_wrapped(each.figure), "", *_wrapped(f"*{origin}; {output}*")]


def _picture(each: Picture) -> list[str]:
    return [f"![{each.file}](../tests/proof/results/{each.file})", "", *_wrapped(f"*{each.shows}*")]
