"""Cohorts: which images every arm of a utility experiment trains on and is tested on, chosen once and frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from cxr_core.data.dataset import Dataset, write_parquet
from cxr_core.data.identity import same_patients
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import Arm
from cxr_core.evaluation.pools import Pool, hashed_pool, listed_pool
from cxr_core.evaluation.settings import Utility
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.tables import read_table

COLUMNS = ("use", "source", "image_id", "patient_id", "view", "label")
"""`use` is an arm or "test", `source` real or synthetic, `label` 1 with the finding and 0 without."""

ARMS: tuple[Arm, ...] = ("real", "mixed", "half", "doubled")


class Shares(NamedTuple):
    """Images of each class that an arm trains on, and how often an epoch shows each."""

    num_real: int
    num_synthetic: int
    times: int = 1


def shares(entry: Utility) -> dict[Arm, Shares]:
    """What each arm of an experiment consists of."""
    num = entry.each(entry.num_images)
    half = num // 2
    return {"real": Shares(num, 0), "mixed": Shares(half, half), "half": Shares(half, 0), "doubled": Shares(half, 0, 2)}


@dataclass(frozen=True)
class Cohort:
    """The images of one experiment (`COLUMNS`), why arms cannot be run ("test" stands for all), and what there was.

    An image that an epoch shows twice has two rows.
    """

    images: pd.DataFrame
    not_run: Mapping[str, str] = field(default_factory=dict)
    available: Mapping[str, int] = field(default_factory=dict)

    def use(self, name: str) -> pd.DataFrame:
        """The images of an arm, or of "test"."""
        return self.images[self.images["use"] == name].reset_index(drop=True)

    @property
    def arms(self) -> list[Arm]:
        """The arms that can be run."""
        return [] if "test" in self.not_run else [arm for arm in ARMS if arm not in self.not_run]


def choose_cohort(entry: Utility, real: Dataset, synthetic: Dataset, seed: int) -> Cohort:
    """Choose the images of one experiment by its protocol, everywhere as many with the finding as without.

    `repaired`: training images of the train split and test images of the official test split, in an order that is a
    hash of `seed` and the image, so that the half is a fair part of the whole. Raises UserError if a patient is in
    both. `as_written`: all of the official training list in its order; see `Utility.protocol`.
    """
    return _as_written(entry, real, synthetic) if entry.is_leaky else _repaired(entry, real, synthetic, seed)


def _repaired(entry: Utility, real: Dataset, synthetic: Dataset, seed: int) -> Cohort:
    rows = {f"real {split}": real.rows[real.rows["split"] == split] for split in ("train", "test")}
    pools = {name: hashed_pool(part, entry, real.findings, seed) for name, part in rows.items()}
    pools["synthetic"] = hashed_pool(synthetic.rows, entry, synthetic.findings, seed)
    num_least, num_most = entry.each(entry.min_test), entry.each(entry.num_test)
    missing = pools["real test"].short(num_least, "real test images")
    num_test = 0 if missing else min(num_most, pools["real test"].num_pairs)
    test = pools["real test"].take(num_test)
    cohort = _cohort(entry, pools, test, missing, train="real train")
    _refuse_shared_patients(cohort.images)
    return cohort


def _as_written(entry: Utility, real: Dataset, synthetic: Dataset) -> Cohort:
    # Preprocessing carved `val` out of the official training list, which the study's code reads whole.
    pools = {
        "real list": listed_pool(_training_list(real), entry, real.findings),
        "synthetic": listed_pool(synthetic.rows, entry, synthetic.findings),
    }
    num_train, num_test = entry.each(entry.num_images), entry.each(entry.num_test)
    missing = pools["real list"].short(num_train + num_test, "real images of the training list, to train and to test,")
    test = pools["real list"].take(0 if missing else num_train + num_test, start=num_train)
    return _cohort(entry, pools, test, missing, train="real list")


def _training_list(real: Dataset) -> pd.DataFrame:
    """The official one: who was moved into it for a bounding box is not of it."""
    return real.rows[(real.rows["split"] != "test") & ~same_patients(real.rows["patient_id"], real.barred)]


def _cohort(entry: Utility, pools: Mapping[str, Pool], test: pd.DataFrame, missing: list[str], *, train: str) -> Cohort:
    """All arms from the pools `train` and "synthetic", beside the test images; `missing` says why there are none."""
    not_run = {"test": "; ".join(missing)} if missing else {}
    parts = [test.assign(use="test", source="real")]
    for arm, (num_real, num_synthetic, times) in shares(entry).items():
        short = pools[train].short(num_real, "real training images")
        short += pools["synthetic"].short(num_synthetic, "synthetic images")
        if short:
            not_run[arm] = "; ".join(short)
            continue
        part = pools[train].take(num_real).assign(source="real")
        drawn = pools["synthetic"].take(num_synthetic).assign(source="synthetic")
        parts += [pd.concat([part, drawn]).assign(use=arm)] * times
    images = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    available = {f"{name} {has}": num for name, pool in pools.items() for has, num in pool.sizes.items()}
    return Cohort(images, not_run, available)


def write_cohorts(folder: Path, cohorts: Sequence[Cohort]) -> None:
    """Freeze the cohorts of all experiments: cohorts.parquet (an image of one use a row) and cohorts.json."""
    facts = [{"not_run": dict(cohort.not_run), "available": dict(cohort.available)} for cohort in cohorts]
    write_uses(folder, "cohorts", [cohort.images for cohort in cohorts], COLUMNS, facts)


def read_cohorts(folder: Path) -> list[Cohort]:
    """The frozen cohorts, in the order of the experiments."""
    return [Cohort(images, **fact) for images, fact in read_uses(folder, "cohorts")]


def write_uses(
    folder: Path,
    name: str,
    images: Sequence[pd.DataFrame],
    columns: Sequence[str],
    facts: Sequence[Mapping[str, Any]],
) -> None:
    """Freeze what each experiment uses: its images (`columns`) in `<name>.parquet`, facts of it in `<name>.json`."""
    empty = pd.DataFrame({column: pd.Series(dtype=str) for column in columns})
    parts = [part.assign(entry=i) for i, part in enumerate(images)] or [empty]
    write_parquet(folder / f"{name}.parquet", pa.Table.from_pandas(pd.concat(parts), preserve_index=False))
    write_json(folder / f"{name}.json", {"format": 1, "cohorts": list(facts)})


def read_uses(folder: Path, name: str) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """The images and facts of each experiment, in their order."""
    images = read_table(folder / f"{name}.parquet").to_pandas()
    facts = read_json(folder / f"{name}.json")["cohorts"]
    return [(images[images["entry"] == i], fact) for i, fact in enumerate(facts)]


def _refuse_shared_patients(images: pd.DataFrame) -> None:
    patients = images[images["source"] == "real"]
    is_test = patients["use"] == "test"
    refuse_shared(patients.loc[~is_test, "patient_id"], patients.loc[is_test, "patient_id"], "training", "test")


def refuse_shared(train: pd.Series, test: pd.Series, one: str, other: str) -> None:
    """Raise UserError where patients are both in `train` and in `test`, which are called `one` and `other`."""
    shared = sorted(set(train) & set(test))
    if shared:
        raise UserError(
            f"{len(shared)} patients are in {one} and in {other}: {', '.join(shared[:5])}",
            where="the real Dataset's splits",
            hint="split by patient: a classifier that knows the patient tells nothing of the finding",
        )


def check_findings(names: Sequence[str], real: Dataset, synthetic: Dataset, *, where: str) -> None:
    """Raise UserError for a finding that is not in the vocabulary, or Datasets of different vocabularies."""
    if real.info.findings != synthetic.info.findings:
        raise UserError(
            f"the Datasets have different findings: {list(real.info.findings)} and {list(synthetic.info.findings)}",
            where=where,
            hint="compare a synthetic Dataset with the real one that it was made like",
        )
    for name in names:
        try:
            real.findings.encode([name])
        except UserError as error:
            raise UserError(error.what, where=where, hint=error.hint) from None
