"""Cells of a table of radiographs, put into one form: ages, sexes, visits, views."""

import re
from collections.abc import Mapping

import pandas as pd

from cxr_core.data.csvfile import Csv
from cxr_core.data.identity import is_nothing

_AGE = re.compile(r"(\d+(?:[.,]\d+)?)\s*([YMWD]?)", re.ASCII)
"""A decimal comma is a point: an age has no thousands."""
_UNITS = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "", "other": "", "u": ""}
_BETWEEN = re.compile(r"[\s_./-]+")
_VIEWS = {"pa": "PA", "p a": "PA", "posteroanterior": "PA", "postero anterior": "PA", "posterior anterior": "PA"}
_VIEWS |= {"ap": "AP", "a p": "AP", "anteroposterior": "AP", "antero posterior": "AP", "anterior posterior": "AP"}
UNKNOWN_VIEW = "unknown"
"""In a mapping of views: the projection is not known."""


def parse_ages(csv: Csv, values: pd.Series) -> pd.Series:
    """Ages as DICOM and both editions of ChestX-ray14 write them ("57", "057Y", "011M", "008W", "004D") in years; where
    there is none: NaN."""
    hint = 'write years ("57", "057Y"), months ("011M"), weeks ("008W"), days ("004D") or nothing; for ">89" write 90'
    return csv.parse(values, _age, "not an age", hint)


def _age(text: str) -> float | None:
    match = _AGE.fullmatch(text.upper())
    if match is None:
        return float("nan") if is_nothing(text) else None
    return float(match[1].replace(",", ".")) / _UNITS[match[2]]


def parse_sex(csv: Csv, values: pd.Series) -> pd.Series:
    """M, F, or "" where it is another one (DICOM's O), or not known."""
    hint = "write M, F, male or female; O, U, unknown or nothing where it is neither or not known"
    return csv.parse(values, _sex, "not a sex", hint)


def _sex(text: str) -> str | None:
    return "" if is_nothing(text) else _SEXES.get(text.casefold())


def parse_visits(csv: Csv, values: pd.Series) -> pd.Series:
    """Numbers of visits."""
    csv.refuse(~values.str.fullmatch(r"\d{1,9}"), values, "not the number of a visit", "write 0, 1, 2 ...")
    return values.astype("int64")


def parse_views(values: pd.Series, named: Mapping[str, str] | None = None) -> pd.Series:
    """PA, AP, "" where the view is not known; any other view as it is given, for it is neither.

    `named` says what further values mean: PA, AP or `UNKNOWN_VIEW`.
    """
    known = _VIEWS | {_plain(value): "" if view == UNKNOWN_VIEW else view for value, view in (named or {}).items()}
    return values.map({value: known.get(_plain(value), _other(value)) for value in values.unique()})


def _plain(view: str) -> str:
    return _BETWEEN.sub(" ", view.casefold()).strip().removesuffix(" view").removesuffix(" projection")


def _other(view: str) -> str:
    return "" if is_nothing(view) else view
