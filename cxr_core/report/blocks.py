"""What a section of the page is made of. Plain data: how it looks is the template's business alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Citation:
    """A published source; the only links of the page that leave it."""

    text: str
    url: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `note` sets it smaller, `absent` marks what is not there (yet) and why."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = "plain"
    source: Citation | None = None


@dataclass(frozen=True)
class Column:
    """Head of a table column; numbers are aligned to the right in digits of equal width."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are finished texts; the first of a row is its head. Rows whose index is in `strong` stand out."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class FactList:
    """Terms and what is known of them."""

    kind: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Box:
    """A rectangle in the pixels of the picture, x to the right and y down, with its name."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """A PNG as data URI, with its size in pixels, what it shows in words, and lines to print below it."""

    uri: str
    width: int
    height: int
    alt: str
    title: str = ""
    lines: Sequence[str] = ()
    boxes: Sequence[Box] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many in a row as there is room for. `wide`: one below the other, as large as fits."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class PictureGrid:
    """A table of pictures: `columns` and `rows` name its heads, `cells[row][column]` are the pictures."""

    kind: ClassVar[str] = "grid"
    corner: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Picture]]
    caption: str


@dataclass(frozen=True)
class Chart:
    """One SVG drawing, with what it shows in words."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Charts:
    """Drawings side by side where there is room, under one caption."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    caption: str


@dataclass(frozen=True)
class CodeBlock:
    """Text in its own line breaks."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading one level below the section's."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that open on a click."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence["Block"]


Block: TypeAlias = Text | Table | FactList | Gallery | PictureGrid | Charts | CodeBlock | Heading | Details


@dataclass(frozen=True)
class Section:
    """One question the page answers. `id` is its anchor."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
