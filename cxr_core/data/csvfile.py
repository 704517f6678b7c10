"""CSV files read strictly: every mistake is named with its file, its row and its value."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr_core.errors import UserError


@dataclass(frozen=True)
class Csv:
    """A CSV of text cells."""

    path: Path
    cells: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "Csv":
        """Read a CSV. Raises UserError where it is missing, ragged or no text."""
        try:
            cells = pd.read_csv(
                path, dtype=object, keep_default_na=False, na_filter=False, index_col=False, encoding="utf-8-sig"
            )
        except FileNotFoundError as error:
            raise UserError("there is no such file", where=str(path), mend="check the path in the config") from error
        except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
            raise UserError(f"not a readable CSV ({str(error).strip()})", where=str(path)) from error
        return cls(path, cells.fillna(""))

    def refuse_empty(self) -> None:
        """Raise UserError where there is only a header."""
        if self.cells.empty:
            raise UserError("the table has no rows", where=str(self.path))

    def column(self, *names: str) -> pd.Series:
        """The first of the columns `names` that is there, without blanks at both ends."""
        for name in names:
            if name in self.cells.columns:
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


def row_number(index: int) -> int:
    """Row of a spreadsheet: the header is row 1."""
    return index + 2
