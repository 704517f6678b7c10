"""Problems: what was odd with an image or a row, and what was done about it. All of them end in problems.csv."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import pandas as pd

from cxr_core.data.paths import printable
from cxr_core.data.settings import Policies
from cxr_core.errors import UserError
from cxr_core.runs.files import atomic_path
from cxr_core.shown import csv_cell, from_csv_cell

COLUMNS = ("kind", "image_id", "file", "detail", "action")

CASES = "cases"
"""Last column of problems.csv: for how many cases a row stands."""

ACTIONS = {"exclude": "left out", "convert": "converted", "keep": "kept"}

SUMMED = {
    "box_without_row": "boxes of images that the table does not name",
    "image_without_row": "image files without a row in the table",
    "passed_over": "files and folders passed over by their names",
    "row_without_image": "rows without an image",
}
"""Kinds that come by the hundred thousand, and of no image that is read: one row each, last, and a list beside."""

_HINTS = {
    "unclear_white": "say which value is white with `white` of the data: a number (4095 for 12 bits, 65535 for 16), "
    "`{percentile: 99.9}` or `file`",
    "turned": "say whether it is to be turned",
    "mixed_sizes": "name the right one with `expect_size` of the data",
    "not_a_file": "restore or remove it",
    "box_without_label": "make labels and boxes agree",
}


def problem(kind: str, image_id: str, file: str, detail: str, action: str) -> dict[str, str]:
    """One row of problems.csv, each value one line of text, whatever is in names."""
    return dict(zip(COLUMNS, map(printable, (kind, image_id, file, detail, action)), strict=True))


def decide(policies: Policies, kind: str, *, file: str, detail: str) -> str:
    """The policy for `kind`: "exclude", "convert" or "keep". Raises UserError where it is "fail"."""
    policy: str = getattr(policies, kind)
    if policy == "fail":
        raise UserError(
            f"{kind.replace('_', ' ')}: {detail}",
            where=file,
            hint=f"{_HINTS.get(kind, 'mend or remove it')}, or choose what happens with `policies: {{{kind}: ...}}`",
        )
    return policy


def problem_frame(
    kind: str, image_ids: Iterable[str], files: Iterable[str] | str, details: Iterable[str] | str, action: str
) -> pd.DataFrame:
    """Many problems of one kind, with values as `problem` makes them."""
    columns = (image_ids, files, details)
    ids, files, details = (printable(one) if isinstance(one, str) else list(map(printable, one)) for one in columns)
    return pd.DataFrame({"kind": kind, "image_id": ids, "file": files, "detail": details, "action": action})


def decide_all(policies: Policies, found: pd.DataFrame) -> pd.DataFrame:
    """Put the policy's action into a frame of one kind. Raises UserError for its first row where the policy is fail."""
    if found.empty:
        return found
    kind, _, file, detail, _ = found.iloc[0]
    return found.assign(action=ACTIONS[decide(policies, kind, file=file, detail=detail)])


def passed_over(odd: Iterable[Mapping[str, str]], policies: Policies) -> list[pd.DataFrame]:
    """What a walk over folders passed over, a frame of each kind. Raises UserError where a policy is fail."""
    found = pd.DataFrame(list(odd), columns=list(COLUMNS))
    odd_files = found["kind"] == "not_a_file"
    return [decide_all(policies, found[odd_files]), found[~odd_files]]


def sum_up(found: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Problems of a plan with one row for each of the kinds `SUMMED`, whose cases are listed in `folder`/<kind>.csv."""
    parts = [found[~found["kind"].isin(list(SUMMED))].assign(**{CASES: "1"})]
    for kind, words in SUMMED.items():
        cases = found[found["kind"] == kind]
        if cases.empty:
            continue
        _write(folder / f"{kind}.csv", cases)
        first = cases.iloc[0]
        where = ", ".join(filter(None, (first["image_id"], first["file"])))
        detail = f"{words}: {len(cases)}; the first: {where}"
        row = problem(kind, "", f"plan/{kind}.csv", detail, first["action"]) | {CASES: str(len(cases))}
        parts.append(pd.DataFrame([row]))
    return pd.concat(parts, ignore_index=True)


def write_problems(path: Path, *parts: pd.DataFrame | Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Write problems.csv: kinds that left something out before others, `SUMMED` last. Returns each kind's cases."""
    frames = [part if isinstance(part, pd.DataFrame) else pd.DataFrame(list(part)) for part in parts]
    columns = [*COLUMNS, CASES]
    found = pd.concat([pd.DataFrame(columns=columns, dtype=str), *frames])[columns].fillna({CASES: "1"})
    found = found.assign(rank=_ranks(found)).sort_values(["rank", *COLUMNS], ignore_index=True, kind="stable")
    _write(path, found[columns])
    return count_cases(found)


def count_cases(found: pd.DataFrame) -> dict[str, int]:
    """Cases of each kind, in the order of their first rows."""
    numbers = found[CASES].astype("int64").groupby(found["kind"], sort=False).sum()
    return {str(kind): int(num) for kind, num in numbers.items()}


def read_problems(path: Path | IO[bytes]) -> pd.DataFrame:
    """problems.csv with all its columns as text; one written before rows had `cases` has one case a row."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False).map(from_csv_cell)
    return found if CASES in found else found.assign(**{CASES: "1"})


def _ranks(found: pd.DataFrame) -> pd.Series:
    """0 for kinds by which something was left out, 1 for others, 2 for `SUMMED`."""
    loses = found["action"].str.contains("left out", regex=False)
    rank = (~loses).astype(int).groupby(found["kind"]).transform("min")
    return rank.mask(found["kind"].isin(list(SUMMED)), 2)


def _write(path: Path, found: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        found.map(lambda value: csv_cell(str(value))).to_csv(temporary, index=False)
