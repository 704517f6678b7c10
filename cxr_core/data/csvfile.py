"""CSV files read strictly: every mistake is named with its file, its row and its value."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr_core.errors import UserError

_SAVE_AGAIN = "save the table as a CSV with commas in UTF-8"


@dataclass(frozen=True)
class Csv:
    """A CSV of text cells. The index counts the rows of the file from its second on, see `row_number`."""

    path: Path
    cells: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "Csv":
        """Read a CSV, passing over empty lines. Raises UserError where it is missing, ragged, empty or no text."""
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = {number: row for number, row in enumerate(csv.reader(file, strict=True), 1) if row}
        except FileNotFoundError as error:
            raise UserError("there is no such file", where=str(path), mend="check the path in the config") from error
        except OSError as error:
            mend = "give a file that you have the right to read"
            raise UserError(f"not a readable CSV ({error.strerror})", where=str(path), mend=mend) from error
        except (csv.Error, ValueError) as error:
            raise UserError(f"not a readable CSV ({error})", where=str(path), mend=_SAVE_AGAIN) from error
        if not rows:
            raise UserError("not a readable CSV (it is empty)", where=str(path), mend=_SAVE_AGAIN)
        header = rows.pop(min(rows))
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
                    f"{num_columns} columns are named {name!r}", where=str(self.path), mend="rename all but one"
                )
            if num_columns:
                return self.cells[name].str.strip()
        raise UserError(
            f"there is no column {names[0]!r}; there are {', '.join(map(repr, self.cells.columns))}",
            where=str(self.path),
            mend="name the column in the config, or take the file as it was published",
        )

    def refuse(self, bad: pd.Series, values: pd.Series, what: str, mend: str) -> None:
        """Raise UserError for the first row where `bad`; `what` is said of its value."""
        if bad.any():
            first = int(bad.to_numpy().argmax())
            more = f" ({int(bad.sum()) - 1} more rows like it)" if bad.sum() > 1 else ""
            raise UserError(
                f"{what}: {values.iloc[first]!r}{more}",
                where=f"{self.path}, row {row_number(bad.index[first])}",
                mend=mend,
            )

    def parse(self, values: pd.Series, parser: Callable[[str], object], what: str, mend: str) -> pd.Series:
        """`parser` of every value; where it returns None the row is refused. Each distinct value is parsed once."""
        parsed = {value: parser(value) for value in values.unique()}
        bad = [value for value, result in parsed.items() if result is None]
        self.refuse(values.isin(bad), values, what, mend)
        return values.map(parsed)


def _refuse_ragged(path: Path, rows: Mapping[int, list[str]], num_named: int, num_cells: int) -> None:
    """Raise UserError for the first row with another number of cells than the header.

    Nameless columns at its end may be lacking: NIH's BBox_List_2017.csv has three of them in the header alone.
    """
    for number, row in rows.items():
        if not num_named <= len(row) <= num_cells:
            raise UserError(
                f"{len(row)} cells, but the header has {num_named}",
                where=f"{path}, row {number}",
                mend="give the row one cell a column; a cell with a comma needs quotes",
            )


def row_number(index: int) -> int:
    """Row of a spreadsheet: the header is row 1."""
    return index + 2
