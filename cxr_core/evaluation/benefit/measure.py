"""From the scores of all classifiers of a benefit experiment to its part of metrics.json."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.adjudicated import labelled
from cxr_core.evaluation.benefit.bootstrap import Seeds, holm, resampled_aurocs
from cxr_core.evaluation.benefit.cohort import BenefitCohort, seen_words
from cxr_core.evaluation.benefit.exchange import exchange_rate
from cxr_core.evaluation.benefit.results import (
    ArmAuroc,
    BenefitArm,
    BenefitResult,
    ByLabels,
    Comparison,
    ExchangeRate,
    GroupAuroc,
    TestedFinding,
)
from cxr_core.evaluation.benefit.settings import MACRO, REAL, Benefit, Primary
from cxr_core.evaluation.groups import groups
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import Contrast, at_its_bound, auroc_intervals, not_degenerate, view_rule
from cxr_core.evaluation.matched import HeldOutImages
from cxr_core.evaluation.trial import too_few
from cxr_core.seeds import derive_seed


def measure_benefit(
    entry: Benefit,
    cohort: BenefitCohort,
    learnt: Mapping[tuple[str, int], tuple[np.ndarray, float]],
    real: Dataset,
    synthetic: Dataset,
    seed: int,
) -> BenefitResult:
    """The experiment's part of metrics.json.

    `learnt` maps (arm, seed) to scores (n, findings) of the test images in the cohort's order and the final loss;
    `seed` is that of the bootstrap. Raises UserError where the adjudicated labels cannot be read.
    """
    arms = tuple(_arm(entry, cohort, name, learnt, real, synthetic) for name in entry.arm_names)
    result = BenefitResult(
        **{name: getattr(entry, name) for name in ("findings", "split", "match_views")},
        generator_saw=entry.generator_trained_on,
        **{name: getattr(entry, name) for name in ("seeds", "num_resamples")},
        preset=entry.learner.preset,
        image_size=entry.learner.image_size or real.info.size,
        steps=entry.learner.steps,
        arms=arms,
        by_labels=(),
    )
    rows = _rows_of(real, cohort.use("test")["image_id"])
    train = _rows_of(real, cohort.use(REAL)["image_id"])
    scores = {
        arm.arm: np.stack([learnt[arm.arm, one][0] for one in entry.seeds]) for arm in arms if arm.not_run is None
    }
    whole = _Tables(entry, result, rows, rows["labels"].to_numpy(), train, scores, real, derive_seed(seed, "bootstrap"))
    tables = [whole.result("as recorded")]
    if entry.adjudicated:
        labels = labelled(entry.adjudicated, real.findings, rows["image_id"])
        some = whole.only(rows["image_id"].isin(labels.index).to_numpy(bool))
        some = replace(some, labels=labels.loc[some.rows["image_id"]].to_numpy())
        tables.append(some.result("adjudicated"))
    return result.model_copy(update={"by_labels": tuple(tables)})


def _rows_of(dataset: Dataset, image_ids: pd.Series) -> pd.DataFrame:
    return dataset.rows.set_index("image_id", drop=False).loc[image_ids].reset_index(drop=True)


def _arm(
    entry: Benefit,
    cohort: BenefitCohort,
    name: str,
    learnt: Mapping[tuple[str, int], tuple[np.ndarray, float]],
    real: Dataset,
    synthetic: Dataset,
) -> BenefitArm:
    chosen = cohort.use(name)
    rows = {
        source: _rows_of(dataset, chosen.loc[chosen["source"] == source, "image_id"])
        for source, dataset in (("real", real), ("synthetic", synthetic))
    }
    labels = pd.concat([part["labels"] for part in rows.values()])
    return BenefitArm(
        arm=name,
        num_real=len(rows["real"]),
        num_real_patients=int(rows["real"]["patient_id"].nunique()),
        num_synthetic=len(rows["synthetic"]),
        num_unlike=cohort.num_unlike[name],
        num_with={finding: int((labels & real.findings.bit(finding) != 0).sum()) for finding in entry.findings},
        generator_saw=seen_words(synthetic) if len(rows["synthetic"]) else None,
        final_loss=tuple(learnt[name, one][1] for one in entry.seeds if (name, one) in learnt),
        not_run=cohort.not_run.get(name),
    )


@dataclass(frozen=True)
class _Tables:
    """All that the numbers by one kind of labels are a function of. `rows`, `labels` (bits) and the second axis of
    `scores` (seeds, n, findings) are of the test images."""

    entry: Benefit
    experiment: BenefitResult
    rows: pd.DataFrame
    labels: np.ndarray
    train: pd.DataFrame
    scores: Mapping[str, np.ndarray]
    real: Dataset
    seed: int

    def only(self, which: np.ndarray) -> "_Tables":
        """The same on some of the test images."""
        scores = {arm: values[:, which] for arm, values in self.scores.items()}
        return replace(self, rows=self.rows[which].reset_index(drop=True), labels=self.labels[which], scores=scores)

    def result(self, kind: Literal["as recorded", "adjudicated"]) -> ByLabels:
        known: dict[str, Any] = {"labels": kind, "num_images": len(self.rows)}
        known["num_patients"] = int(self.rows["patient_id"].nunique())
        tested = self._tested
        if not self.computed or not self.scores:
            return ByLabels(**known, findings=tested)
        primary, comparisons = self._comparisons()
        return ByLabels(
            **known,
            findings=tested,
            primary=primary,
            aurocs=tuple(self._aurocs()),
            comparisons=tuple(comparisons),
            exchange=tuple(self._exchange()),
            groups=tuple(self._groups()),
        )

    @cached_property
    def test(self) -> HeldOutImages:
        bits = [self.real.findings.bit(name) for name in self.entry.findings]
        having = np.stack([self.labels & bit != 0 for bit in bits], axis=1)
        views, patients = (self.rows[name].to_numpy(dtype=str) for name in ("view", "patient_id"))
        return HeldOutImages.of(having, views, patients, match_views=self.entry.match_views)

    @cached_property
    def _tested(self) -> tuple[TestedFinding, ...]:
        return tuple(self._one_tested(i, name) for i, name in enumerate(self.entry.findings))

    def _one_tested(self, i: int, finding: str) -> TestedFinding:
        num_with, num_without = self.test.count(i)
        patients = self.test.patients[self.test.labels[:, i] & (self.test.weights[:, i] > 0)]
        few = too_few(finding, num_with, num_without, self.entry.min_images, "test")
        return TestedFinding(
            finding=finding,
            num_with=num_with,
            num_without=num_without,
            num_patients_with=len(np.unique(patients)),
            view_only=None if few or self.train.empty else self._view_only(i, finding),
            not_computed=few,
        )

    def _view_only(self, i: int, finding: str) -> Interval:
        having = (self.train["labels"] & self.real.findings.bit(finding) != 0).to_numpy()
        score = view_rule(self.train["view"].to_numpy(), having, self.rows["view"].to_numpy())
        contrast = Contrast(score, self.test.labels[:, i], self.test.weights[:, i])
        return auroc_intervals([contrast], self.test.patients, self.seed, self.entry.num_resamples)[0]

    @cached_property
    def computed(self) -> list[int]:
        """Columns of the findings that have test images enough."""
        return [i for i, one in enumerate(self._tested) if one.not_computed is None]

    @property
    def names(self) -> list[str]:
        """What the second axis of `values` is of."""
        return [*(self.entry.findings[i] for i in self.computed), MACRO]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        return resampled_aurocs(self.scores, self.test, self.computed, self.seed, self.entry.num_resamples)

    @cached_property
    def seeds(self) -> Seeds:
        return Seeds(len(self.entry.seeds), self.entry.num_resamples, self.seed)

    @cached_property
    def _num_rarer(self) -> dict[str, int]:
        """Patients of the rarer class of each of `names`; of the mean the fewest."""
        nums = {self.entry.findings[i]: self._patients_of_rarer(i) for i in self.computed}
        return nums | {MACRO: min(nums.values(), default=0)}

    def _patients_of_rarer(self, i: int) -> int:
        counted = self.test.weights[:, i] > 0
        sides = (self.test.patients[counted & (self.test.labels[:, i] == label)] for label in (True, False))
        return min(len(np.unique(side)) for side in sides)

    def _aurocs(self) -> Iterator[ArmAuroc]:
        for arm, values in self.values.items():
            for name, each in zip(self.names, values.swapaxes(0, 1), strict=True):
                seeds = tuple(each[:, 0].tolist())
                auroc = at_its_bound(self.seeds.interval(each), self._num_rarer[name])
                yield ArmAuroc(arm=arm, finding=name, auroc=auroc, seeds=seeds)

    def _comparisons(self) -> tuple[Comparison | None, list[Comparison]]:
        """The primary one, and every other of an arm with `real`, corrected for being many."""
        first = self.entry.primary
        found = [self._compared(one) for one in self._wanted() if not (first and self._same(one, first))]
        adjusted = holm([one.p for one in found])
        corrected = [one.model_copy(update={"p_holm": p}) for one, p in zip(found, adjusted, strict=True)]
        is_there = first and {first.arm, first.against} <= self.values.keys() and first.finding in self.names
        return (self._compared(first) if first and is_there else None), corrected

    def _wanted(self) -> Iterator[Primary]:
        """Each arm but those of the curve with `real`; a single finding is its own mean, and is compared once."""
        names = self.names if len(self.computed) > 1 else self.names[:1]
        for arm in self.values if REAL in self.values else ():
            if arm != REAL and arm not in self.entry.curve_names:
                yield from (Primary(arm=arm, against=REAL, finding=name) for name in names)

    def _same(self, one: Primary, other: Primary) -> bool:
        is_same_finding = one.finding == other.finding or len(self.computed) == 1
        return is_same_finding and (one.arm, one.against) == (other.arm, other.against)

    def _compared(self, wanted: Primary) -> Comparison:
        at = self.names.index(wanted.finding)
        change = self.values[wanted.arm][:, at] - self.values[wanted.against][:, at]
        num = self._num_rarer[wanted.finding]
        return Comparison(
            **wanted.model_dump(),
            difference=self._change(change, wanted.arm, wanted.against, num),
            p=self.seeds.p_value(change, num),
            p_holm=None,
        )

    def _change(self, values: np.ndarray, arm: str, against: str, num: int) -> Interval:
        """The interval of a difference of two arms; exactly 0 where their scores are the same."""
        drawn = self.seeds.interval(values)
        are_same = np.array_equal(self.scores[arm], self.scores[against])
        return drawn if are_same else not_degenerate(drawn, num, least=-1.0)

    def _exchange(self) -> Iterator[ExchangeRate]:
        if not self.entry.learning_curve_percent:
            return
        sizes = self.experiment.curve
        for arm in self.experiment.arms:
            if not arm.num_synthetic or arm.not_run is not None:
                continue
            for at, name in enumerate(self.names):
                curve = {num: self.values[alone][:, at] for alone, num in sizes.items()}
                counts = arm.num_real, arm.num_synthetic
                yield exchange_rate(arm.arm, name, counts, curve, self.values[arm.arm][:, at], self.seeds)

    def _groups(self) -> Iterator[GroupAuroc]:
        wanted = self.entry.primary
        arms = [wanted.arm, wanted.against] if wanted else [REAL]
        scores = {arm: self.scores[arm] for arm in arms if arm in self.scores}
        for by, group, which in groups(self.rows):
            # Without training images there is no view-only baseline, which matched views make a half anyway.
            some = replace(self, train=self.train.iloc[:0], scores=scores).only(which)
            yield from some._group(by, group)

    def _group(self, by: Any, group: str) -> Iterator[GroupAuroc]:
        known = {"by": by, "group": group, "num_patients": len(np.unique(self.test.patients))}
        for one in self._tested:
            numbers: dict[str, Any] = {}
            if one.not_computed is None and self.scores:
                numbers = self._group_numbers(one.finding)
            copied = {name: getattr(one, name) for name in ("finding", "num_with", "num_without", "not_computed")}
            yield GroupAuroc(**known, **copied, **numbers)

    def _group_numbers(self, finding: str) -> dict[str, Any]:
        at, wanted, num = self.names.index(finding), self.entry.primary, self._num_rarer[finding]
        found = {arm: values[:, at] for arm, values in self.values.items()}
        change = None
        if wanted and {wanted.arm, wanted.against} <= found.keys():
            change = self._change(found[wanted.arm] - found[wanted.against], wanted.arm, wanted.against, num)
        aurocs = {arm: at_its_bound(self.seeds.interval(each), num) for arm, each in found.items()}
        return {"aurocs": aurocs, "difference": change}
