"""Cohorts: which images every arm of a utility experiment trains on and is tested on, chosen once and frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.errors import UserError
from cxr_core.evaluation.settings import Utility
from cxr_core.runs.files import read_json, write_json
from cxr_core.seeds import unit_hash

COLUMNS = ("use", "source", "image_id", "patient_id", "view", "label")
"""`use` is an arm or "test", `source` real or synthetic, `label` 1 with the finding and 0 without."""

ARMS: tuple[Literal["real", "mixed", "half"], ...] = ("real", "mixed", "half")


@dataclass(frozen=True)
class Cohort:
    """The images of one experiment (`COLUMNS`), why arms cannot be run ("test" stands for all), and what there was."""

    images: pd.DataFrame
    not_run: Mapping[str, str] = field(default_factory=dict)
    available: Mapping[str, int] = field(default_factory=dict)

    def use(self, name: str) -> pd.DataFrame:
        """The images of an arm, or of "test"."""
        return self.images[self.images["use"] == name].reset_index(drop=True)

    @property
    def arms(self) -> list[Literal["real", "mixed", "half"]]:
        """The arms that can be run."""
        return [] if "test" in self.not_run else [arm for arm in ARMS if arm not in self.not_run]


def choose_cohort(entry: Utility, real: Dataset, synthetic: Dataset, seed: int) -> Cohort:
    """Choose the images of one experiment.

    Training images come from the real train split, test images from the official test split; equally many with and
    without the finding; in an order that is a hash of `seed` and the image, so the half is a part of the whole. Raises
    UserError if a patient is in training and in test.
    """
    pools = {
        "real train": _pools(real.rows[real.rows["split"] == "train"], entry, real.findings, seed),
        "real test": _pools(real.rows[real.rows["split"] == "test"], entry, real.findings, seed),
        "synthetic": _pools(synthetic.rows, entry, synthetic.findings, seed),
    }
    not_run: dict[str, str] = {}
    parts = [_test_part(pools["real test"], entry, not_run)]
    quarter = entry.num_images // 4
    for arm, num_real, num_synthetic in (("real", 2 * quarter, 0), ("mixed", quarter, quarter), ("half", quarter, 0)):
        part = _take(pools["real train"], num_real, arm, "real")
        part += _take(pools["synthetic"], num_synthetic, arm, "synthetic")
        short = _short(pools["real train"], num_real, "real training images", entry)
        short += _short(pools["synthetic"], num_synthetic, "synthetic images", entry)
        if short:
            not_run[arm] = "; ".join(short)
        else:
            parts.append(pd.concat(part))
    images = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    _refuse_shared_patients(images)
    available = {
        f"{source} {has}": len(pool) for source, both in pools.items() for has, pool in zip(_CLASSES, both, strict=True)
    }
    return Cohort(images, not_run, available)


def write_cohorts(folder: Path, cohorts: Sequence[Cohort]) -> None:
    """Freeze the cohorts of all experiments: cohorts.parquet (an image of one use a row) and cohorts.json."""
    columns = {name: pd.Series(dtype=str) for name in COLUMNS}
    parts = [cohort.images.assign(entry=i) for i, cohort in enumerate(cohorts)] or [pd.DataFrame(columns)]
    write_parquet(folder / "cohorts.parquet", pa.Table.from_pandas(pd.concat(parts), preserve_index=False))
    facts = [{"not_run": dict(cohort.not_run), "available": dict(cohort.available)} for cohort in cohorts]
    write_json(folder / "cohorts.json", {"format": 1, "cohorts": facts})


def read_cohorts(folder: Path) -> list[Cohort]:
    """The frozen cohorts, in the order of the experiments."""
    images = pq.read_table(folder / "cohorts.parquet").to_pandas()
    facts = read_json(folder / "cohorts.json")["cohorts"]
    return [Cohort(images[images["entry"] == i], **fact) for i, fact in enumerate(facts)]


_CLASSES = ("with", "without")

_Pools = tuple[pd.DataFrame, pd.DataFrame]
"""Candidates with the finding, and without it, each in the order in which they are taken."""


def has_finding(labels: pd.Series, finding: str, rule: str, findings: Findings) -> pd.Series:
    """Which images have the finding, by the rule: `any` with it among others, `only` alone. No Finding is alone."""
    bit = findings.bit(finding)
    return labels == bit if rule == "only" or finding == NO_FINDING else labels & bit != 0


def _pools(rows: pd.DataFrame, entry: Utility, findings: Findings, seed: int) -> _Pools:
    positive = has_finding(rows["labels"], entry.finding, entry.rule, findings)
    negative = has_finding(rows["labels"], entry.negatives, entry.rule, findings)
    negative &= ~has_finding(rows["labels"], entry.finding, "any", findings)
    images = rows[["image_id", "patient_id", "view"]]
    with_it, without = images[positive].assign(label=1), images[negative].assign(label=0)
    return in_hash_order(with_it, seed, entry.finding), in_hash_order(without, seed, entry.finding)


def in_hash_order(rows: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    """`rows` in an order that is a function of `seed`, `purpose` and each image's id alone."""
    key = [unit_hash(seed, purpose, image_id) for image_id in rows["image_id"]]
    return rows.assign(_key=key).sort_values(["_key", "image_id"]).drop(columns="_key")


def _take(pools: _Pools, num_each: int, use: str, source: str) -> list[pd.DataFrame]:
    return [pool.head(num_each).assign(use=use, source=source) for pool in pools]


def _test_part(pools: _Pools, entry: Utility, not_run: dict[str, str]) -> pd.DataFrame:
    num_each = min(entry.num_test // 2, *map(len, pools))
    short = _short(pools, entry.min_test // 2, "real test images", entry)
    if short:
        not_run["test"] = "; ".join(short)
        num_each = 0
    return pd.concat(_take(pools, num_each, "test", "real"))


def _short(pools: _Pools, num_each: int, what: str, entry: Utility) -> list[str]:
    """What there is too little of: "real training images with Edema: 49 of 500"."""
    names = (entry.finding if entry.rule == "any" else f"{entry.finding} only", entry.negatives)
    return [
        f"{what} with {name}: {len(pool)} of {num_each}"
        for name, pool in zip(names, pools, strict=True)
        if len(pool) < num_each
    ]


def _refuse_shared_patients(images: pd.DataFrame) -> None:
    patients = images[images["source"] == "real"]
    is_test = patients["use"] == "test"
    shared = sorted(set(patients.loc[is_test, "patient_id"]) & set(patients.loc[~is_test, "patient_id"]))
    if shared:
        raise UserError(
            f"{len(shared)} patients are in training and in test: {', '.join(shared[:5])}",
            where="the real Dataset's splits",
            mend="split by patient: a classifier that knows the patient tells nothing of the finding",
        )


def check_findings(names: Sequence[str], real: Dataset, synthetic: Dataset, *, where: str) -> None:
    """Raise UserError for a finding that is not in the vocabulary, or Datasets of different vocabularies."""
    if real.info.findings != synthetic.info.findings:
        raise UserError(
            f"the Datasets have different findings: {list(real.info.findings)} and {list(synthetic.info.findings)}",
            where=where,
            mend="compare a synthetic Dataset with the real one that it was made like",
        )
    for name in names:
        try:
            real.findings.encode([name])
        except UserError as error:
            raise UserError(error.what, where=where, mend=error.mend) from None
