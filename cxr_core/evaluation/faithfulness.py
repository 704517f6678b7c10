"""Label faithfulness: do synthetic images show the findings they were asked for, as real images show theirs?

The judge's score is compared between synthetic images asked for with a finding and those asked for without (AUROC),
beside the same contrast on real images, and beside the same with the requested labels shuffled. Only a judge that has
passed its trial on real patients is asked (see `trial`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.errors import UserError
from cxr_core.evaluation.distances import effective_size
from cxr_core.evaluation.intervals import Contrast, auroc_intervals, shuffled_intervals
from cxr_core.evaluation.metrics import (
    FaithfulnessResult,
    Interval,
    JudgedFinding,
    PromptContrast,
    PromptVerdict,
    Trial,
)
from cxr_core.evaluation.mix import Mix, cell_names
from cxr_core.evaluation.settings import Faithfulness
from cxr_core.evaluation.trial import POOLED, JudgedImages, places, refusal, too_few, try_judge
from cxr_core.seeds import derive_seed

_Key = tuple[str, str]
"""A finding, and `POOLED` or a view."""


def judge_synthetic(
    real: pd.DataFrame,
    real_scores: np.ndarray,
    synthetic: pd.DataFrame,
    synthetic_scores: np.ndarray,
    findings: Sequence[str],
    vocabulary: Findings,
    settings: Faithfulness,
    seed: int,
) -> FaithfulnessResult:
    """Try the judge on held-out real images, then let it judge synthetic ones where it passed.

    `real` and `synthetic` are rows of Datasets that share `vocabulary`; of `real` those of `settings.split` are judged
    and those of train, if there are any, fit the view-only baseline. The scores are probabilities (n, findings), a
    column per name in `findings`. The result is a function of the images and `seed`, whatever the order of rows.
    Raises UserError where a score is no probability or a patient is both in train and held out.
    """
    everyone = JudgedImages.of(real, real_scores, findings, vocabulary, what="real")
    images = JudgedImages.of(synthetic, synthetic_scores, findings, vocabulary, what="synthetic")
    splits = everyone.rows["split"].to_numpy()
    held_out, train = everyone.only(splits == settings.split), everyone.only(splits == "train")
    _refuse_shared_patients(train, held_out, settings.split)
    known = [name for name in findings if name in (*vocabulary.names, NO_FINDING)]
    requested = [name for name in (*vocabulary.names, NO_FINDING) if images.having(name).any()]
    where = places(held_out, images)
    trials = try_judge(held_out, train, known, where, settings, seed)
    mix = Mix.of(images.rows, [held_out.rows])
    contrasts = _contrasts(held_out, images, mix, {k: trials[k] for k in known if k in requested}, settings, seed)
    return FaithfulnessResult(
        **settings.model_dump(),
        num_real=len(held_out),
        num_real_patients=len(np.unique(held_out.patients)),
        num_train=len(train),
        num_synthetic=len(images),
        findings=tuple(
            JudgedFinding(finding=name, trial=trials[name], synthetic=contrasts.get(name, ())) for name in known
        ),
        unknown_to_judge=tuple(name for name in requested if name not in (*findings, NO_FINDING)),
        not_requested=tuple(name for name in known if name not in requested),
        not_in_vocabulary=tuple(name for name in findings if name not in known),
        num_covered=int(mix.covers(images.rows).sum()),
        missing=_missing(mix, images),
    )


def _refuse_shared_patients(train: JudgedImages, held_out: JudgedImages, split: str) -> None:
    shared = sorted(set(train.rows["patient_id"]) & set(held_out.rows["patient_id"]))
    if shared:
        raise UserError(
            f"{len(shared)} patients are in train and in {split}: {', '.join(shared[:5])}",
            where="the real Dataset's splits",
            hint="split by patient: a judge is tried on patients it has not seen",
        )


def _missing(mix: Mix, images: JudgedImages) -> dict[str, int]:
    """Cells that held-out real images lack, in words, and the synthetic images of each; most first."""
    numbers = (mix.lacking * len(images)).round().astype(int)
    return dict(zip(cell_names(mix.lacking, images.vocabulary), numbers.tolist(), strict=True))


def _contrasts(
    held_out: JudgedImages,
    images: JudgedImages,
    mix: Mix,
    trials: Mapping[str, tuple[Trial, ...]],
    settings: Faithfulness,
    seed: int,
) -> dict[str, tuple[PromptContrast, ...]]:
    """What the judge says of synthetic images: each finding's contrasts, in the order of its trials."""
    refused = {
        (name, trial.within): _refusal(name, trial, tried, images, settings)
        for name, tried in trials.items()
        for trial in tried
    }
    given = [key for key, reason in refused.items() if reason is None]
    unlike = {key: _real_refusal(*key, held_out, images, mix, settings) for key in given}
    numbers = _numbers(held_out, images, mix, given, [key for key in given if unlike[key] is None], settings, seed)
    contrasts = {
        key: _refused(images, *key, reason) if reason else _contrast(images, *key, numbers, unlike[key])
        for key, reason in refused.items()
    }
    return {name: tuple(contrasts[name, trial.within] for trial in tried) for name, tried in trials.items()}


def _refusal(
    finding: str, trial: Trial, trials: Sequence[Trial], images: JudgedImages, settings: Faithfulness
) -> str | None:
    """Why there is no number: the judge failed here, or in a view that the images are in, or there are too few."""
    if trial.refused is not None:
        return trial.refused
    if trial.within == POOLED:
        in_views = [other for other in trials if other.within != POOLED and images.count(finding, other.within)[0]]
        reasons = [other.refused for other in in_views if other.refused is not None]
        if reasons:
            return refusal(POOLED, f"the judge is {'; '.join(reasons)}")
    few = too_few(finding, *images.count(finding, trial.within), settings.min_images, "synthetic")
    return refusal(trial.within, few) if few else None


def _real_refusal(
    finding: str, place: str, held_out: JudgedImages, images: JudgedImages, mix: Mix, settings: Faithfulness
) -> str | None:
    """Why the requested mix cannot be had from real images, counted as what their weights leave of them."""
    having = held_out.having(finding)
    weights = mix.weights(held_out.rows) * held_out.within(place)
    effective = (effective_size(weights[having]), effective_size(weights[~having]))
    after = ", as the requested mix weights them"
    few = too_few(finding, *effective, settings.min_images, "effective real", after)
    return few or too_few(finding, *_covered(finding, place, images, mix), settings.min_images, "synthetic", _LIKE_REAL)


_LIKE_REAL = " with labels and view that real images have"


def _covered(finding: str, place: str, images: JudgedImages, mix: Mix) -> tuple[int, int]:
    inside, having = images.within(place) & mix.covers(images.rows), images.having(finding)
    return int((inside & having).sum()), int((inside & ~having).sum())


@dataclass(frozen=True)
class _Numbers:
    """Intervals as `PromptContrast` names them."""

    auroc: Mapping[_Key, Interval]
    chance: Mapping[_Key, Interval]
    matched: Mapping[_Key, Interval]
    real: Mapping[_Key, Interval]


def _numbers(
    held_out: JudgedImages,
    images: JudgedImages,
    mix: Mix,
    given: Sequence[_Key],
    comparable: Sequence[_Key],
    settings: Faithfulness,
    seed: int,
) -> _Numbers:
    """The intervals of the contrasts `given`, and of those `comparable` with real images; resamples are shared."""
    everyone, covered, weights = np.ones(len(images)), mix.covers(images.rows), mix.weights(held_out.rows)
    asked = {key: _of(images, *key, everyone) for key in given}
    partly = [key for key in comparable if not covered[images.within(key[1])].all()]
    matched = [_of(images, *key, covered) for key in partly]
    real = [_of(held_out, *key, weights) for key in comparable]
    of_image = np.arange(len(images))
    made = auroc_intervals(
        [*asked.values(), *matched], of_image, derive_seed(seed, "synthetic images"), settings.num_resamples
    )
    auroc = dict(zip(asked, made, strict=False))
    chance = shuffled_intervals(list(asked.values()), images.views.astype(str), seed, settings.num_permutations)
    lived = auroc_intervals(real, held_out.patients, seed, settings.num_resamples)
    return _Numbers(
        auroc,
        dict(zip(asked, chance, strict=True)),
        {key: auroc[key] for key in comparable} | dict(zip(partly, made[len(asked) :], strict=True)),
        dict(zip(comparable, lived, strict=True)),
    )


def _of(images: JudgedImages, finding: str, place: str, weights: np.ndarray) -> Contrast:
    return Contrast(images.score(finding), images.having(finding), weights * images.within(place))


def _refused(images: JudgedImages, finding: str, place: str, reason: str) -> PromptContrast:
    num_with, num_without = images.count(finding, place)
    return PromptContrast(within=place, num_with=num_with, num_without=num_without, refused=reason, verdict="refused")


def _contrast(
    images: JudgedImages, finding: str, place: str, numbers: _Numbers, real_refused: str | None
) -> PromptContrast:
    key = finding, place
    num_with, num_without = images.count(finding, place)
    auroc, chance, matched, real = (
        numbers.auroc[key],
        numbers.chance[key],
        numbers.matched.get(key),
        numbers.real.get(key),
    )
    return PromptContrast(
        within=place,
        num_with=num_with,
        num_without=num_without,
        auroc=auroc,
        chance=chance,
        real=real,
        real_refused=real_refused,
        matched=matched,
        exaggerated=matched.value > real.value if matched and real else None,
        overlap=_overlap(matched, real) if matched and real else None,
        verdict=verdict(auroc, chance, matched, real),
        histogram=images.histogram(finding, place),
    )


def _overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high


def verdict(auroc: Interval, chance: Interval, matched: Interval | None, real: Interval | None) -> PromptVerdict:
    """What the numbers say. The finding is there where shuffled prompts do not explain the AUROC."""
    if auroc.high < chance.value and auroc.value < chance.low:
        return "reversed"
    if auroc.low <= chance.value or auroc.value <= chance.high:
        return "not_shown"
    if matched is None or real is None:
        return "not_compared"
    if matched.value > real.value:
        return "exaggerated"
    return "not_told_apart" if _overlap(matched, real) else "fainter"
