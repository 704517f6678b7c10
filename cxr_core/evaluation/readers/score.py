"""What readers' answers say: who was right how often, on what errors they went, and how far they agree."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cxr_core.data.csvfile import Csv, row_number
from cxr_core.errors import UserError
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import not_degenerate, percentiles
from cxr_core.evaluation.readers.agreement import cohen_kappa, fleiss_kappa, share
from cxr_core.evaluation.readers.taxonomy import ERRORS, FORMAT
from cxr_core.runs.files import read_json
from cxr_core.seeds import derive_seed
from cxr_core.settings import Settings

COLUMNS = ["test", "reader", "item", "answer", "errors"]
"""Of a CSV of answers; `errors` are codes of `ERRORS` joined by "|"."""

_NUM_RESAMPLES = 2000
_AS_WRITTEN = "give the CSV as the page of this test wrote it"


class Reader(Settings):
    """One reader. Shares lie in 0..1, with Wilson's intervals; null: of no image."""

    reader: str
    """The name given on the page."""
    num_answered: int
    """Images answered."""
    accuracy: Interval | None
    """Share answered rightly; 0.5 is guessing."""
    found: Interval | None
    """Share of synthetic images called synthetic."""
    spared: Interval | None
    """Share of real images called real."""


class ReaderPair(Settings):
    """Two readers."""

    readers: tuple[str, str]
    """Their names."""
    num_images: int
    """Images that both answered."""
    kappa: float | None
    """Cohen's; null where chance alone gives full agreement."""


class ErrorSeen(Settings):
    """How often readers gave a reason."""

    error: str
    """Its code."""
    synthetic: int
    """Answers that named it on synthetic images."""
    real: int
    """Answers that named it on real ones: these are wrong."""


class ReaderScores(Settings):
    """All that the answers to one test say."""

    format: Literal[1] = 1
    """Version of this form."""
    test: str
    """The test's number, as on its page."""
    num_images: int
    """Images of the test, half of them synthetic."""
    readers: tuple[Reader, ...]
    """By name."""
    mean_accuracy: Interval
    """Mean over the readers; interval by resampling images, which all readers share. Readers are not resampled."""
    pairs: tuple[ReaderPair, ...]
    """Every two readers."""
    fleiss_kappa: float | None
    """Of all readers on the images that all answered."""
    num_all_answered: int
    """How many these are."""
    errors: tuple[ErrorSeen, ...]
    """By the taxonomy's order."""


def score_answers(key_path: Path, answers: Sequence[Path]) -> ReaderScores:
    """Compare CSV files of answers, one or more readers each, with the key of their test.

    Raises UserError naming file and row where something is not as the page writes it, or of another test.
    """
    key = _read_key(key_path)
    truth = pd.Series({entry["item"]: entry["source"] == "synthetic" for entry in key["items"]})
    files = [_read(path, key["test"], truth).assign(file=str(path)) for path in answers]
    table = pd.concat(files, ignore_index=True)
    if (twice := table.duplicated(["reader", "item"])).any():
        raise _answered_twice(table, *table.loc[twice, ["reader", "item"]].iloc[0])
    said = table.pivot(index="reader", columns="item", values="said").reindex(columns=truth.index)
    everyone = said.loc[:, said.notna().all()].to_numpy(bool)
    return ReaderScores(
        test=key["test"],
        num_images=len(truth),
        readers=tuple(_reader(str(name), row, truth) for name, row in said.iterrows()),
        mean_accuracy=_mean_accuracy(said, truth, derive_seed(key["seed"], "reader bootstrap")),
        pairs=tuple(_pair(said, one, other) for one, other in combinations(said.index, 2)),
        fleiss_kappa=fleiss_kappa(everyone),
        num_all_answered=everyone.shape[1],
        errors=tuple(_error(code, table, truth) for code in ERRORS),
    )


def _answered_twice(table: pd.DataFrame, reader: str, item: int) -> UserError:
    files = table.loc[(table["reader"] == reader) & (table["item"] == item), "file"].unique()
    hint = "keep one of these rows"
    if len(files) > 1:
        hint = "give one of these files, if one reader sent both; else give each reader a name of his own in it"
    return UserError(f"reader {reader!r} answered image {item} twice", where=" and ".join(files), hint=hint)


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = dict(read_json(path))
        if key["format"] != FORMAT or not {"test", "items", "seed"} <= key.keys():
            raise ValueError(f"format {key['format']!r}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"no key of a reading test ({error!r})",
            where=str(path),
            hint="give the NAME.key.json of `cxr readers make`",
        ) from error
    return key


def _read(path: Path, test: str, truth: pd.Series) -> pd.DataFrame:
    """One file's answers: reader, item, said (True: synthetic), errors (a list of codes)."""
    csv = Csv.read(path)
    if csv.cells.empty:
        raise UserError(
            "it has a header and no answer", where=str(path), hint="leave it out, or ask its reader for the answers"
        )
    table = pd.DataFrame({name: csv.column(name) for name in COLUMNS})
    for index, row in zip(table.index, table.to_dict("records"), strict=True):
        if wrong := _mistake(row, test, truth):
            where = f"{path}, row {row_number(index)}"
            is_other = row["test"] != test
            hint = "give the key of that test, or leave the file out" if is_other else _AS_WRITTEN
            raise UserError(wrong, where=where, hint=hint)
    items, said = table["item"].astype(int), table["answer"] == "synthetic"
    errors = [[code for code in text.split("|") if code] for text in table["errors"]]
    return pd.DataFrame({"reader": table["reader"], "item": items, "said": said, "errors": errors})


def _mistake(row: Mapping[Any, str], test: str, truth: pd.Series) -> str | None:
    if row["test"] != test:
        return f"an answer to test {row['test']!r}, but the key is of {test!r}"
    if not row["item"].isdigit() or int(row["item"]) not in truth.index:
        return f"there is no image {row['item']!r}"
    if row["answer"] not in ("real", "synthetic"):
        return f"the answer {row['answer']!r} is neither real nor synthetic"
    unknown = [code for code in row["errors"].split("|") if code and code not in ERRORS]
    return f"unknown error {unknown[0]!r}: known are {', '.join(ERRORS)}" if unknown else None


def _reader(name: str, said: pd.Series, truth: pd.Series) -> Reader:
    answered = said.notna().to_numpy()
    made, right = truth.to_numpy()[answered], (said[answered].to_numpy(bool) == truth[answered].to_numpy(bool))
    return Reader(
        reader=name,
        num_answered=int(answered.sum()),
        accuracy=share(int(right.sum()), len(right)),
        found=share(int(right[made].sum()), int(made.sum())),
        spared=share(int(right[~made].sum()), int((~made).sum())),
    )


def _mean_accuracy(said: pd.DataFrame, truth: pd.Series, seed: int) -> Interval:
    """The mean over readers of their share of right answers, on all images and on resamples of them."""
    answered = said.notna().to_numpy().astype(float)
    right = answered * (said.eq(truth, axis=1)).to_numpy()
    num = len(truth)
    counts = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), _NUM_RESAMPLES).T
    whole = np.concatenate([np.ones((num, 1)), counts], axis=1)
    with np.errstate(invalid="ignore"):
        shares = right @ whole / (answered @ whole)
    # A resample without an image that a reader answered says nothing of him, and one without any nothing at all.
    means = np.nanmean(shares[:, ~np.isnan(shares).all(axis=0)], axis=0)
    return not_degenerate(percentiles(float(means[0]), means[1:]), int(answered.any(axis=0).sum()))


def _pair(said: pd.DataFrame, one: str, other: str) -> ReaderPair:
    both = said.loc[[one, other]].dropna(axis=1).to_numpy(bool)
    return ReaderPair(readers=(one, other), num_images=both.shape[1], kappa=cohen_kappa(*both))


def _error(code: str, table: pd.DataFrame, truth: pd.Series) -> ErrorSeen:
    named = table["errors"].map(lambda codes: code in codes).to_numpy(bool)
    made = truth.loc[table["item"]].to_numpy(bool)
    return ErrorSeen(error=code, synthetic=int((named & made).sum()), real=int((named & ~made).sum()))
