"""CSV files read strictly: every mistake is named with its file, its row and its value."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr_core.data.textfile import read_text
from cxr_core.errors import UserError

_SAVE_AGAIN = "save the table as a CSV with commas in UTF-8"
_SEPARATORS = ",\t;"
_EXCELS_HINT = re.compile(r"sep=(.)[,;\t]*", re.IGNORECASE)
"""A first line by which Excel is told the separator."""


@dataclass(frozen=True)
class Csv:
    """A CSV of text cells. The index counts the rows of the file from its second on, see `row_number`."""

    path: Path
    cells: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "Csv":
        """Read a CSV, passing over rows of empty cells; where the header has more tabs or semicolons, these separate.

        Raises UserError where it is missing, ragged, empty or no text.
        """
        rows = {number: row for number, row in _records(path, read_text(path)) if any(map(str.strip, row))}
        if not rows:
            raise UserError("not a readable CSV (it is empty)", where=str(path), hint=_SAVE_AGAIN)
        header = [name.strip() for name in rows.pop(min(rows))]
        num_named = max((i for i, name in enumerate(header, 1) if name), default=0)
        _refuse_ragged(path, rows, num_named, len(header))
        cells = [row[:num_named] for row in rows.values()]
        return cls(path, pd.DataFrame(cells, [n - 2 for n in rows], header[:num_named], dtype=object))

    def refuse_empty(self) -> None:
        """Raise UserError where there is only a header."""
        if self.cells.empty:
            raise UserError("the table has no rows", where=str(self.path))

    def column(self, *names: str) -> pd.Series:
        """The first of the columns `names` that is there, without blanks at both ends.

        Raises UserError where none is there, or two have the name.
        """
        for name in names:
            num_columns = int((self.cells.columns == name).sum())
            if num_columns > 1:
                raise UserError(
                    f"{num_columns} columns are named {name!r}", where=str(self.path), hint="rename all but one"
                )
            if num_columns:
                return self.cells[name].str.strip()
        raise UserError(
            f"there is no column {names[0]!r}; there are {', '.join(map(repr, self.cells.columns))}",
            where=str(self.path),
            hint="name the column in the config, or take the file as it was published",
        )

    def refuse(self, bad: pd.Series, values: pd.Series, what: str, hint: str) -> None:
        """Raise UserError for the first row where `bad`; `what` is said of its value."""
        if bad.any():
            first = int(bad.to_numpy().argmax())
            more = f" ({int(bad.sum()) - 1} more rows like it)" if bad.sum() > 1 else ""
            raise UserError(
                f"{what}: {values.iloc[first]!r}{more}",
                where=f"{self.path}, row {row_number(bad.index[first])}",
                hint=hint,
            )

    def parse(self, values: pd.Series, parser: Callable[[str], object], what: str, hint: str) -> pd.Series:
        """`parser` of every value; where it returns None the row is refused. Each distinct value is parsed once."""
        parsed = {value: parser(value) for value in values.unique()}
        bad = [value for value, result in parsed.items() if result is None]
        self.refuse(values.isin(bad), values, what, hint)
        return values.map(parsed)


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row. Raises UserError, naming the row, for quotes that do not fit."""
    lines = list(io.StringIO(text, newline=""))
    hint = _EXCELS_HINT.fullmatch(lines[0].strip()) if lines else None
    lines = ["\n", *lines[1:]] if hint else lines
    delimiter = hint[1] if hint else _separator(lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != " ", strict=True)
    number, line = 0, 0
    while True:
        number, line = number + 1, reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines_read = f"lines {line} to {reader.line_num}" if reader.line_num > line else f"line {line}"
            raise UserError(
                f"not a readable CSV ({error}; {lines_read} of the file)",
                where=f"{path}, row {number}",
                hint='close each quote that opens a cell, and double those inside it: "so ""called"" cells"',
            ) from error
        yield number, row


def _separator(lines: list[str]) -> str:
    """What separates the cells of the header: a comma, unless there are more tabs or semicolons."""
    header = next((line for line in lines if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=bare.count)


def _refuse_ragged(path: Path, rows: Mapping[int, list[str]], num_named: int, num_cells: int) -> None:
    """Raise UserError for the first row with another number of cells than the header.

    Nameless columns at its end may be lacking: NIH's BBox_List_2017.csv has three of them in the header alone.
    """
    for number, row in rows.items():
        if not num_named <= len(row) <= num_cells:
            raise UserError(
                f"{len(row)} cells, but the header has {num_named}",
                where=f"{path}, row {number}",
                hint="give the row one cell a column; a cell with a comma needs quotes",
            )


def row_number(index: int) -> int:
    """Row of a spreadsheet: the header is row 1."""
    return index + 2
