"""Who is who: patients whose names are spelled in two ways are on one side of every split."""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_WORDS = ["nan", "none", "null", "nil", "nat", "n/a", "na", "#n/a", "<na>", "unknown", "undefined", "missing"]
NOTHING = frozenset(["", "-", "--", "?", ".", *_WORDS])
"""What programs and people write, in any case, where there is no value."""

_NUMBER = re.compile(r"\+?\d+(\.\d*)?(e\+?\d{1,3})?", re.ASCII)
_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_BETWEEN = re.compile(r"[\s_-]+")
_BEFORE_DIGIT = re.compile(r"(?<=[^\W\d])-(?=\d)")
_MOST_DIGITS = 100
"""Of a number that is written out to be compared."""


def is_nothing(text: str) -> bool:
    """Whether a cell says that there is no value: "", "nan", "N/A" ..."""
    return text.strip().casefold() in NOTHING


def composed(text: str) -> str:
    """The text with composed letters (NFC): "ü" in one character, not in two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def patient_key(text: str) -> str:
    """Equal for spellings that are probably one patient: `5` and `5.0`, `4` and `0004`, `P01` and `p 1`, `a b`, `a_b`.

    Two patients may share it, so it decides on which side of a split they are, never who they are.
    """
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf").strip()
    if _NUMBER.fullmatch(text):
        return _digits(text)
    return _ZEROS.sub("", _BEFORE_DIGIT.sub("", _BETWEEN.sub("-", text)))


def _digits(text: str) -> str:
    """A number without leading zeros, exponent or an empty fraction; one with a fraction stays as it is."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if number.adjusted() >= _MOST_DIGITS or number != number.to_integral_value():
        return text
    return f"{number:.0f}"


def one_spelling(patients: "pd.Series") -> "pd.Series":
    """Patients whose names differ in how letters are composed alone (NFC) get one name; all others keep theirs."""
    spellings: dict[str, list[str]] = {}
    for name in patients.unique():
        spellings.setdefault(composed(name), []).append(name)
    several = {name: one for one, names in spellings.items() if len(names) > 1 for name in names}
    return patients.replace(several) if several else patients


def similar(patients: "pd.Series") -> list[list[str]]:
    """Spellings that are probably one patient, each group sorted; only groups of several."""
    groups: dict[str, list[str]] = {}
    for name in patients.unique():
        groups.setdefault(patient_key(name), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def persons(patients: "pd.Series", groups: list[list[str]]) -> "pd.Series":
    """Each patient, and for those of a group the first of its names: what splits go by."""
    first = {name: names[0] for names in groups for name in names}
    return patients.map(lambda name: first.get(name, name)) if first else patients


def same_patients(patients: "pd.Series", names: Iterable[str]) -> "pd.Series":
    """Whether each patient is probably one of `names`, which another table may have spelled: bool."""
    keys = {patient_key(name) for name in names}
    return patients.map({name: patient_key(name) in keys for name in patients.unique()}).astype(bool)
