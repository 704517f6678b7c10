"""Which file is whose: the rows of a table joined with the image files that lie on disk."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from cxr_core.data.paths import path_of
from cxr_core.data.references import Match, match_all, num_common, num_needed, tidy
from cxr_core.errors import UserError


@dataclass(frozen=True)
class Files:
    """Image files: their paths, and how many of a path's folders lie below the one that `images` names."""

    paths: list[str] = field(default_factory=list)
    below: list[int] = field(default_factory=list)

    def add(self, path: str, root: str) -> None:
        """Add a file that lies somewhere below the folder `root`."""
        self.paths.append(path)
        plain = path if path.startswith(root) else str(path_of(path))
        self.below.append(plain.count("/") - root.rstrip("/").count("/") - 1)

    def same(self, one: int, other: int) -> bool:
        """Whether two paths lead to one file, by links or because folders overlap."""
        try:
            return self.paths[one] == self.paths[other] or path_of(self.paths[one]).samefile(path_of(self.paths[other]))
        except OSError:
            return False


@dataclass(frozen=True)
class Located:
    """`files`: the path of each row's file (NaN where there is none), with the rows' index; `near`: by the index of a
    row without a file, a file of the same name in folders that contradict; `strangers`: paths that no row names."""

    files: pd.Series
    near: Mapping[int, str]
    strangers: Sequence[str]


def locate(rows: pd.DataFrame, files: Files, where: str) -> Located:
    """Join rows (`reference`, `patient_id`, `row`) with files. A row without folders takes the file of its name.

    Raises UserError where two files may be one row's, or two rows have one file; `where` is the table.
    """
    references = rows["reference"].tolist()
    shared = num_common(references, rows["patient_id"].tolist())
    needed = [num_needed(path, shared) for path in references]
    matches = match_all(references, needed, [tidy(path) for path in files.paths], files.below, files.same)
    numbers = rows["row"].tolist()
    for reference, match, number in zip(references, matches, numbers, strict=True):
        if match.ambiguous:
            raise _ambiguous(reference, match, files, f"{where}, row {number}")
    matches = _by_folders(matches, needed)
    _refuse_shared(matches, files, references, numbers, where)
    found = pd.Series([files.paths[m.place] if m.place >= 0 else None for m in matches], rows.index, dtype=object)
    near = {
        index: files.paths[match.others[0]]
        for index, match in zip(rows.index, matches, strict=True)
        if match.place < 0 and match.others
    }
    return Located(found, near, _strangers(matches, files))


def _by_folders(matches: Sequence[Match], needed: Sequence[int]) -> list[Match]:
    """Once some file lies in the folders that the table says, every row with folders must agree with its file's."""
    if not any(match.place >= 0 and 0 < num <= match.folders for match, num in zip(matches, needed, strict=True)):
        return list(matches)
    return [
        match if match.place < 0 or match.folders >= num else Match(-1, match.folders, (match.place,))
        for match, num in zip(matches, needed, strict=True)
    ]


def _ambiguous(reference: str, match: Match, files: Files, where: str) -> UserError:
    one, other = (files.paths[place] for place in match.others)
    return UserError(
        f"image {reference!r} is there twice: {one} and {other}",
        where=where,
        hint="write the folders that tell them apart into the table, or remove one, or name folders in `images` "
        "that hold one of them",
    )


def _refuse_shared(
    matches: Sequence[Match], files: Files, references: Sequence[str], numbers: Sequence[int], where: str
) -> None:
    owner: dict[int, int] = {}
    for i, match in enumerate(matches):
        first = owner.setdefault(match.place, i) if match.place >= 0 else i
        if first != i:
            raise UserError(
                f"one file for two images: {references[first]!r} and {references[i]!r} (rows {numbers[first]} and "
                f"{numbers[i]}) are {files.paths[match.place]}",
                where=where,
                hint="lay the files into folders as the table says, or keep one row an image",
            )


def _strangers(matches: Sequence[Match], files: Files) -> list[str]:
    """Files that no row has, but for further paths to a file that one has."""
    taken = {match.place for match in matches if match.place >= 0}
    named = {os.path.basename(files.paths[place]): place for place in taken}  # noqa: PTH119 - Path objects take a second
    left = (place for place in range(len(files.paths)) if place not in taken)
    return [
        files.paths[place]
        for place in left
        if (other := named.get(os.path.basename(files.paths[place]))) is None or not files.same(place, other)  # noqa: PTH119
    ]
