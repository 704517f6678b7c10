"""Which images each arm of a benefit experiment learns from, and which test it: chosen once and frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.data.splits import choose_patients
from cxr_core.evaluation.benefit.settings import PRETRAIN, REAL, SYNTHETIC, Benefit
from cxr_core.evaluation.cohort import read_uses, refuse_shared, write_uses
from cxr_core.evaluation.pools import in_hash_order, like
from cxr_core.generation.series import learnt_by
from cxr_core.models.training_data import images_sha256

COLUMNS = ("use", "source", "image_id")
"""`use` is an arm or "test", `source` real or synthetic."""

_UNTOLD = "unknown: the synthetic Dataset does not say"


@dataclass(frozen=True)
class BenefitCohort:
    """The images of one experiment (`COLUMNS`), and of its arms: why not run, how many unlike what they stand for."""

    images: pd.DataFrame
    not_run: Mapping[str, str] = field(default_factory=dict)
    num_unlike: Mapping[str, int] = field(default_factory=dict)

    def use(self, name: str) -> pd.DataFrame:
        """The images of an arm, or of "test", in their fixed order."""
        return self.images[self.images["use"] == name].reset_index(drop=True)


def choose_benefit(entry: Benefit, real: Dataset, synthetic: Dataset, seed: int) -> BenefitCohort:
    """Choose the images of every arm; `seed` orders the synthetic ones.

    Raises UserError where a patient is in train and in the split that tests.
    """
    train, test = real.of_split("train"), real.of_split(entry.split)
    refuse_shared(train["patient_id"], test["patient_id"], "train", entry.split)
    full = choose_patients(train, entry.num_real)
    drawn = in_hash_order(synthetic.rows, seed, "benefit")
    parts, not_run, unlike = [test.assign(use="test", source="real")], {}, {}
    for arm in entry.arm_names:
        kept, wanted = _wanted(arm, full)
        made, unlike[arm] = like(wanted, drawn, entry.findings, real.findings)
        if reason := _refusal(arm, kept, wanted, made, entry, real, synthetic):
            not_run[arm] = reason
        else:
            parts += [kept.assign(use=arm, source="real"), made.assign(use=arm, source="synthetic")]
    return BenefitCohort(pd.concat(parts, ignore_index=True)[list(COLUMNS)], not_run, unlike)


def _wanted(arm: str, full: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The real images of an arm, and the real images like which its synthetic ones are to be."""
    nothing = full.iloc[:0]
    if arm in (REAL, SYNTHETIC, PRETRAIN):
        return nothing if arm == SYNTHETIC else full, nothing if arm == REAL else full
    kind, percent = arm.split("-")
    share = int(percent) / 100
    if kind == "add":
        return full, repeated(full, round(share * len(full)))
    kept = choose_patients(full, round((share if kind == REAL else 1 - share) * len(full)))
    left = full[~full["image_id"].isin(kept["image_id"])]
    return kept, nothing if kind == REAL else left


def repeated(rows: pd.DataFrame, num: int) -> pd.DataFrame:
    """`num` rows at equal steps through `rows`, as often as it takes."""
    return rows.iloc[np.arange(num) * len(rows) // max(num, 1)]


def _refusal(
    arm: str,
    kept: pd.DataFrame,
    wanted: pd.DataFrame,
    made: pd.DataFrame,
    entry: Benefit,
    real: Dataset,
    synthetic: Dataset,
) -> str | None:
    """Why an arm cannot be run: too few images, a finding without any, or another past of the generator than asked."""
    if len(made) < len(wanted):
        return f"synthetic images: {len(made)} of {len(wanted)}"
    images = pd.concat([kept, made])
    for name in entry.findings:
        num_with = int((images["labels"] & real.findings.bit(name) != 0).sum())
        if num_with in (0, len(images)):
            return f"training images {'with' if num_with == 0 else 'without'} {name}: 0"
    if len(made) and entry.generator_trained_on == "same_n":
        return _other_past(kept if len(kept) else wanted, real, synthetic)
    return None


_SAME_N = "generator_trained_on: same_n"


def _other_past(kept: pd.DataFrame, real: Dataset, synthetic: Dataset) -> str | None:
    """Why the generators did not learn from exactly the real images `kept` of this Dataset."""
    learnt = learnt_by(synthetic)
    if learnt is None:
        return f"{_SAME_N}, but what it saw is {_UNTOLD}"
    for generator in learnt:
        chain = [step for step in generator.chain if step.dataset == real.info.digest]
        if not chain:
            return f"{_SAME_N}, but the generator learnt from no image of this Dataset"
        for step in chain:
            if step.images_sha256 is None:
                return f"{_SAME_N}, but the generator does not say which images of this Dataset it learnt from"
            if step.images_sha256 != images_sha256(kept["image_id"]):
                return (
                    f"{_SAME_N}, but the generator learnt from {step.images:,} images of this Dataset "
                    f"that are not the arm's {len(kept):,}: set train_images: {len(kept)} in its latents stage"
                )
    return None


def seen_words(synthetic: Dataset) -> str:
    """What the generators learnt from, the last training of each first."""
    learnt = learnt_by(synthetic)
    told = ["; before that ".join(step.words for step in generator.chain) for generator in learnt or ()]
    return "; another: ".join(told) or _UNTOLD


def write_benefit(folder: Path, cohorts: Sequence[BenefitCohort]) -> None:
    """Freeze the cohorts of all experiments: benefit.parquet (an image of one use a row) and benefit.json."""
    facts = [{"not_run": dict(cohort.not_run), "num_unlike": dict(cohort.num_unlike)} for cohort in cohorts]
    write_uses(folder, "benefit", [cohort.images for cohort in cohorts], COLUMNS, facts)


def read_benefit(folder: Path) -> list[BenefitCohort]:
    """The frozen cohorts, in the order of the experiments."""
    return [BenefitCohort(images, **fact) for images, fact in read_uses(folder, "benefit")]
