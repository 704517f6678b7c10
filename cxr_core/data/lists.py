"""Lists of images: official splits, images to leave out, ids. One reader for all, whatever wrote them.

A list is text with one image a line, or a CSV. Folders, endings and further columns may be there or not.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr_core.data.csvfile import Csv
from cxr_core.data.problems import problem_frame
from cxr_core.data.references import ENDING, Match, match_all, num_common, num_needed, tidy, without_ending
from cxr_core.data.textfile import read_text
from cxr_core.errors import UserError

_PATHS = ("path", "image_path", "path_to_image", "pngpath", "image", "image_id", "image index", "imageid", "image_name")
_FILES = ("filename", "file_name", "file", "filepath", "file_path")
COLUMNS = (*_PATHS, *_FILES, "dicom_id", "img", "name", "id")
"""Names, in any case, by which a header says which column holds the images; the first that is there is taken."""

_FORM = "write one image a line, or a CSV with a column `image`; close each quote that opens a cell"
_FILE = re.compile(rf".*{ENDING}", re.IGNORECASE)
_NEWLINE = re.compile(r"\r\n|\r|\n")
_AFTER_NAME = re.compile(rf"(.*?{ENDING})\s+\S.*", re.IGNORECASE)
"""A name and, after a blank, more columns, as in `00000001_000.png 0 1 0`."""


class ListEntry(NamedTuple):
    """An image as a list names it, and in which line (0: not known)."""

    text: str
    row: int = 0

    def place(self, path: Path) -> str:
        """Where it stands, for people."""
        return f"{path}, row {self.row}" if self.row else str(path)


def read_list(path: Path, *, may_be_empty: bool = False) -> list[ListEntry]:
    """The entries of a list, in its order. Empty lines and lines that begin with # are passed over.

    Raises UserError where the list is no readable text (see `read_text`), or empty against will.
    """
    rows = _rows(path, read_text(path))
    column = _named_column(rows[min(rows)]) if rows else None
    if column is not None:
        del rows[min(rows)]
    if not rows and not may_be_empty:
        raise UserError("the list is empty", where=str(path), hint=_FORM)
    for number, row in rows.items() if column is None else ():
        _refuse_several(row, f"{path}, row {number}")
    return [ListEntry(_alone(row[column or 0]), number) for number, row in rows.items() if len(row) > (column or 0)]


def _rows(path: Path, text: str) -> dict[int, list[str]]:
    """The cells of each row with any, by its number. Raises UserError, naming the row, for quotes that do not fit."""
    lines = ["" if line.lstrip().startswith("#") else line for line in _NEWLINE.split(text)]
    delimiter = _delimiter(lines)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: dict[int, list[str]] = {}
    while True:
        number = reader.line_num + 1
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return rows
        except csv.Error as error:
            where = f"{path}, row {number}"
            raise UserError(f"not a readable list ({error})", where=where, hint=_FORM) from error
        if any(row):
            rows[number] = row


def _refuse_several(row: Sequence[str], where: str) -> None:
    """Raise UserError for a row without a header that names several image files: which is meant, or all, is open."""
    names = {without_ending(cell.rpartition("/")[2]) for cell in row if _FILE.fullmatch(cell)}
    if len(names) > 1:
        raise UserError(f"{len(names)} images in one row: {', '.join(sorted(names)[:3])}", where=where, hint=_FORM)


def _delimiter(lines: Iterable[str]) -> str:
    """What stands between columns, by the first line that has any."""
    for line in lines:
        num = {sign: line.count(sign) for sign in ",;\t"}
        if any(num.values()):
            return max(num, key=lambda sign: num[sign])
    return ","


def image_column(csv: Csv) -> pd.Series:
    """The column of a table that names its images. Raises UserError where none of its names is in `COLUMNS`."""
    place = _named_column(list(csv.cells.columns))
    return csv.column("image_id" if place is None else str(csv.cells.columns[place]))


def _named_column(header: Sequence[str]) -> int | None:
    """Which column a header says to hold the images; None: it is no header."""
    names = [cell.casefold() for cell in header]
    return next((names.index(name) for name in COLUMNS if name in names), None)


def _alone(text: str) -> str:
    match = _AFTER_NAME.fullmatch(text)
    return match[1] if match else text


@dataclass(frozen=True)
class Listed:
    """Entries of a list and what they mean: the place of the image of each among the images, or -1."""

    path: Path
    entries: tuple[ListEntry, ...]
    places: tuple[int, ...]
    named: pd.Series
    """Whether the list names each image: bool, with the images' index."""
    near: Mapping[int, str]
    """By the place of an entry without an image: an image of the same file name in another folder."""

    @property
    def unmatched(self) -> list[tuple[ListEntry, str]]:
        """Entries that name no image, each with its `near` or ""."""
        return [(self.entries[i], self.near.get(i, "")) for i, place in enumerate(self.places) if place < 0]

    @property
    def repeated(self) -> list[tuple[ListEntry, ListEntry]]:
        """Entries of an image that an earlier one names, and that earlier one."""
        first: dict[int, ListEntry] = {}
        pairs = ((entry, place) for entry, place in zip(self.entries, self.places, strict=True) if place >= 0)
        return [(entry, first[place]) for entry, place in pairs if first.setdefault(place, entry) is not entry]


def look_up(path: Path, images: pd.DataFrame, entries: Sequence[ListEntry] | None = None) -> Listed:
    """A list, or these `entries` of it, looked up among images: rows with `image_id`, `reference` (a tidy path) and
    `patient_id`.

    Raises UserError for an entry that may mean several images.
    """
    entries = read_list(path) if entries is None else entries
    matches = _match([tidy(entry.text) for entry in entries], images)
    for entry, match in zip(entries, matches, strict=True):
        if match.ambiguous:
            one, other = (images["reference"].iloc[place] for place in match.others)
            raise UserError(
                f"{entry.text!r} may mean {one!r} or {other!r}",
                where=entry.place(path),
                hint="write the folders of the image too, as the table does, or its image id",
            )
    places = np.array([match.place for match in matches], int)
    named = pd.Series(False, images.index)
    named.iloc[places[places >= 0]] = True
    near = {i: images["reference"].iloc[match.others[0]] for i, match in enumerate(matches) if match.others}
    return Listed(path, tuple(entries), tuple(places.tolist()), named, near)


def entry_problems(listed: Listed) -> list[pd.DataFrame]:
    """Problems: the entries that name no image, and those that name one again."""
    nothing = [
        (entry, f"{entry.text!r} is no image of the table" + (f", which has {near!r}" if near else ""))
        for entry, near in listed.unmatched
    ]
    again = [(entry, f"{entry.text!r} again, as in row {first.row}") for entry, first in listed.repeated]
    return [
        _problems("list_entry_without_image", listed.path, nothing),
        _problems("list_entry_twice", listed.path, again),
    ]


def _problems(kind: str, path: Path, found: Sequence[tuple[ListEntry, str]]) -> pd.DataFrame:
    files, details = [entry.place(path) for entry, _ in found], [detail for _, detail in found]
    return problem_frame(kind, [""] * len(files), files, details, "passed over")


def unmatched_note(listed: Listed) -> list[str]:
    """A line for people where entries of a list name no image: how many, and the first."""
    if not (unmatched := listed.unmatched):
        return []
    entry, near = unmatched[0]
    but = f" (the table has {near!r})" if near else ""
    of = f"{len(unmatched)} of {len(listed.entries)} entries name no image of the table"
    return [f"{listed.path.name}: {of}, the first: {entry.text!r}{but} in row {entry.row}"]


def _match(paths: Sequence[str], images: pd.DataFrame) -> list[Match]:
    """What each tidy path means: an image id, or else the image of this path."""
    place_of = {image_id: place for place, image_id in enumerate(images["image_id"])}
    known = [place_of.get(path, place_of.get(without_ending(path), -1)) for path in paths]
    matches = [Match(place) for place in known]
    left = [i for i, place in enumerate(known) if place < 0]
    if left:
        targets = [without_ending(path) for path in images["reference"]]
        shared = num_common(targets, images["patient_id"].tolist())
        enough = [num_needed(path, shared) for path in targets]
        wanted = [paths[i] for i in left]
        found = match_all(wanted, [path.count("/") for path in wanted], targets, enough)
        for i, match in zip(left, found, strict=True):
            matches[i] = match
    return matches


def look_up_ids(texts: Sequence[str], ids: Sequence[str]) -> list[int]:
    """The place among image ids of a Dataset that each text means, or -1; upper and lower case may differ where that
    leaves one id."""
    exact = {image_id: place for place, image_id in enumerate(ids)}
    times = Counter(map(str.casefold, ids))
    loosely = {name.casefold(): place for name, place in exact.items() if times[name.casefold()] == 1}
    tried = ([exact.get(name, loosely.get(name.casefold(), -1)) for name in possible_ids(text)] for text in texts)
    return [next((place for place in places if place >= 0), -1) for places in tried]


def possible_ids(text: str) -> list[str]:
    """The image ids that a text may mean, the likeliest first: itself, without an ending, made of folders, or the name.

    A Dataset does not hold the paths of its source, so folders are looked at only where ids are made of them.
    """
    path = tidy(text)
    split = [form.split("/") for form in (path, without_ending(path))]
    return list(dict.fromkeys([text, *("_".join(parts[i:]) for parts in split for i in range(len(parts)))]))
