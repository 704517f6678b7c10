"""Results: the scores of all classifiers of an experiment, joined into its part of metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.cohort import ARMS, Cohort, shares
from cxr_core.evaluation.intervals import Bootstrap, view_rule
from cxr_core.evaluation.metrics import Arm, ArmResult, Scores, SeedScores, TestSet, UtilityResult, ViewScores
from cxr_core.evaluation.settings import Utility
from cxr_core.evaluation.utility import size_of
from cxr_core.generation.series import learnt_by
from cxr_core.models.training_data import ImageCounts
from cxr_core.seeds import derive_seed

Scored: TypeAlias = Mapping[tuple[Arm, int], tuple[np.ndarray, float]]
"""(arm, seed) -> scores of the test images in the cohort's order, and the final training loss."""

VIEWS: tuple[Literal["AP", "PA"], ...] = ("AP", "PA")
LEAST_OF_A_VIEW = 20
"""With fewer test images of a view, or fewer than a quarter of these in one class, no number of it is computed."""


def join(entry: Utility, cohort: Cohort, scored: Scored, real: Dataset, synthetic: Dataset, seed: int) -> UtilityResult:
    """The experiment's part of metrics.json; `seed` is that of the bootstrap."""
    test = cohort.use("test")
    judge = _Judge.of(entry, test, derive_seed(seed, "bootstrap")) if cohort.arms else None
    copied = ("finding", "negatives", "rule", "protocol", "num_images", "augment", "epochs")
    return UtilityResult(
        **{name: getattr(entry, name) for name in copied},
        counts=entry.count_images,
        match_views=entry.matches_views,
        image_size=size_of(entry, real),
        available=dict(cohort.available),
        not_run=cohort.not_run.get("test"),
        test=None if test.empty else _test_set(cohort, test),
        arms=tuple(_arm(entry, cohort, arm, scored, judge, synthetic) for arm in ARMS) if judge else (),
        value_of_synthetic=_difference(entry, cohort, scored, judge, "doubled"),
        value_at_equal_epochs=_difference(entry, cohort, scored, judge, "half"),
    )


@dataclass(frozen=True)
class _Judge:
    """The bootstrap of all test images, and for each view the mask of its images with theirs (None: too few)."""

    pooled: Bootstrap
    views: Mapping[Literal["AP", "PA"], tuple[np.ndarray, Bootstrap | None]]

    @classmethod
    def of(cls, entry: Utility, test: pd.DataFrame, seed: int) -> "_Judge":
        labels, patients = test["label"].to_numpy(), test["patient_id"].to_numpy()

        def bootstrap(which: np.ndarray) -> Bootstrap | None:
            classes = np.bincount(labels[which], minlength=2)
            if classes.sum() < LEAST_OF_A_VIEW or classes.min() < LEAST_OF_A_VIEW // 4:
                return None
            return Bootstrap(labels[which], patients[which], len(entry.seeds), seed)

        masks = {} if entry.is_leaky else {view: (test["view"] == view).to_numpy() for view in VIEWS}
        pooled = Bootstrap(labels, patients, len(entry.seeds), seed)
        return cls(pooled, {view: (mask, bootstrap(mask)) for view, mask in masks.items()})

    def by_view(self, scores: Sequence[np.ndarray]) -> tuple[ViewScores, ...]:
        """AP and PA apart, from the scores of each training seed."""
        return tuple(
            ViewScores(
                view=view, num_images=int(mask.sum()), scores=some.mean([s[mask] for s in scores]) if some else None
            )
            for view, (mask, some) in self.views.items()
        )


def _arm(entry: Utility, cohort: Cohort, arm: Arm, scored: Scored, judge: _Judge, synthetic: Dataset) -> ArmResult:
    train, share = cohort.use(arm), shares(entry)[arm]
    known: dict[str, Any] = {
        "arm": arm,
        "num_real": 2 * share.num_real,
        "num_synthetic": 2 * share.num_synthetic,
        "num_real_patients": int(train.loc[train["source"] == "real", "patient_id"].nunique()),
        "generator_saw": _generator_saw(entry, synthetic) if share.num_synthetic else None,
    }
    if arm not in cohort.arms:
        return ArmResult(**known, not_run=cohort.not_run[arm])
    both = [scored[arm, seed] for seed in entry.seeds]
    scores = [values for values, _ in both]
    views = view_rule(train["view"].to_numpy(), train["label"].to_numpy(), cohort.use("test")["view"].to_numpy())
    return ArmResult(
        **known,
        classifier=judge.pooled.mean(scores),
        seeds=tuple(
            SeedScores(seed=seed, final_loss=loss, **dict(judge.pooled.one(values)))
            for seed, (values, loss) in zip(entry.seeds, both, strict=True)
        ),
        view_only=judge.pooled.one(views),
        by_view=judge.by_view(scores),
    )


def _generator_saw(entry: Utility, synthetic: Dataset) -> tuple[ImageCounts, ...] | None:
    """Of all generators of the Dataset, one after another; None if one of them does not say.

    Raises UserError where dataset.json says it in another form than ours.
    """
    seen = [learnt.of_finding(entry.finding) for learnt in learnt_by(synthetic) or (None,) if learnt]
    if not seen or None in seen:
        return None
    return tuple(one for chain in dict.fromkeys(seen) if chain for one in chain)


def _difference(entry: Utility, cohort: Cohort, scored: Scored, judge: _Judge | None, base: Arm) -> Scores | None:
    """The mixed arm minus another."""
    if judge is None or not {"mixed", base} <= set(cohort.arms):
        return None
    mixed, other = ([scored[arm, seed][0] for seed in entry.seeds] for arm in ("mixed", base))
    return judge.pooled.difference(mixed, other)


def _test_set(cohort: Cohort, test: pd.DataFrame) -> TestSet:
    counts = test.value_counts(["view", "label"])
    views = {
        str(view) or "unknown": {"with": int(counts.get((view, 1), 0)), "without": int(counts.get((view, 0), 0))}
        for view in sorted(test["view"].unique())
    }
    trained = cohort.images.loc[(cohort.images["use"] != "test") & (cohort.images["source"] == "real"), "patient_id"]
    patients = set(test["patient_id"])
    return TestSet(
        num_images=len(test),
        num_patients=len(patients),
        num_shared_patients=len(patients & set(trained)),
        views=views,
    )
