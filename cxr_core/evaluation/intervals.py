"""Bootstrap intervals of accuracy and AUROC, which resample patients and training seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import numpy as np
from scipy.stats import norm, rankdata

from cxr_core.evaluation.metrics import Interval, Scores
from cxr_core.models.scores import accuracy, auroc
from cxr_core.seeds import derive_seed

NUM_RESAMPLES = 1000
_AT_ONCE = 100
"""Resamples computed together at most."""
_Z2 = norm.ppf(0.975) ** 2
_ROUNDING = 1e-9
_BLOCK = 2_000_000
"""Resamples computed together times images, at most: bounds memory where there are many images."""


def patient_weights(patients: np.ndarray, seed: int, num: int = NUM_RESAMPLES) -> np.ndarray:
    """How often each image counts in each of `num` resamples of whole patients: (num, n)."""
    return np.concatenate(list(resamples(patients, seed, num)))


def resamples(groups: np.ndarray, seed: int, num: int = NUM_RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of n images counts in each of `num` resamples of whole groups, in blocks of (some, n).

    `groups` names each image's group: its patient, or itself. The resamples do not depend on how they are blocked.
    """
    _, which = np.unique(groups, return_inverse=True)
    num_groups = int(which.max()) + 1
    generator = np.random.default_rng(derive_seed(seed, "patients"))
    at_once = min(_AT_ONCE, max(1, _BLOCK // len(which)))
    for start in range(0, num, at_once):
        chances = np.full(num_groups, 1 / num_groups)
        yield generator.multinomial(num_groups, chances, min(at_once, num - start))[:, which]


@dataclass(frozen=True, eq=False)
class Contrast:
    """One AUROC to compute: the scores of images with something against those of images without.

    All have n values: `scores`, `labels` (bool), and `weights` >= 0, where 0 leaves an image out.
    """

    scores: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positives; negatives by score; and of each positive how many negatives are below it, and not above it."""
        positives, negatives = (np.flatnonzero(self.weights * (self.labels == label)) for label in (True, False))
        negatives = negatives[np.argsort(self.scores[negatives], kind="stable")]
        below, up_to = (
            np.searchsorted(self.scores[negatives], self.scores[positives], side) for side in ("left", "right")
        )
        return positives, negatives, below, up_to

    def aurocs(self, counts: np.ndarray) -> np.ndarray:
        """AUROC of each resample, as `auroc` defines it; `counts` is (n, resamples).

        NaN where a resample leaves one class empty. Images go along the first axis so that picking them copies whole
        rows, which is several times faster for many images.
        """
        positives, negatives, below, up_to = self._sides
        gained = counts[positives] * self.weights[positives, None]
        passed = np.zeros((len(negatives) + 1, counts.shape[1]))
        np.cumsum(counts[negatives] * self.weights[negatives, None], axis=0, out=passed[1:])
        won = np.einsum("ij,ij->j", gained, passed[below]) + np.einsum("ij,ij->j", gained, passed[up_to])
        with np.errstate(invalid="ignore"):
            return won / 2 / (gained.sum(axis=0) * passed[-1])


def unseen(num: float) -> float:
    """The largest share of patients that may be unlike `num` patients who are all alike: 0.56 of 3, 0.04 of 100.

    Wilson's upper bound of none of `num` at 95 % (Wilson 1927, J. Am. Stat. Assoc. 22:209), z^2 / (num + z^2).
    """
    return float(_Z2 / (num + _Z2))


def not_degenerate(found: Interval, num: float, least: float = 0.0, most: float = 1.0) -> Interval:
    """`found`, or a wider interval where all resamples gave one value: of `num` patients who are all alike, as when
    each answer is right, resamples are alike too, and would prove that all patients are so.

    For numbers that no patient moves by more than his share; they lie between `least` and `most`.
    """
    if found.high - found.low > _ROUNDING:
        return found
    wide = unseen(num)
    return Interval(value=found.value, low=max(least, found.value - wide), high=min(most, found.value + wide))


def at_its_bound(found: Interval, num: float) -> Interval:
    """`not_degenerate` for 0 and 1 alone: an AUROC of 0.5 that never varies is exact, its scores are all equal."""
    return found if _ROUNDING < found.value < 1 - _ROUNDING else not_degenerate(found, num)


def _as_it_is(found: Interval, num: float) -> Interval:
    return found


def auroc_intervals(contrasts: Sequence[Contrast], groups: np.ndarray, seed: int, num: int) -> list[Interval]:
    """AUROC of each contrast with its 95 % percentile interval over resamples of whole groups, the same for all.

    A resample without one of the classes has no AUROC: it counts as 0 for the lower bound and as 1 for the upper, so
    that a finding of very few patients gets a wide interval and not, by chance, a narrow one. Where all images with
    something score above all without, the interval is that of as many patients as the rarer class has. Every contrast
    must hold both classes.
    """
    values: list[list[np.ndarray]] = [[] for _ in contrasts]
    if contrasts:
        for block in chain([np.ones((1, len(groups)), int)], resamples(groups, seed, num)):
            counts = np.ascontiguousarray(block.T)
            for computed, contrast in zip(values, contrasts, strict=True):
                computed.append(contrast.aurocs(counts))
    found = (_percentile_interval(np.concatenate(computed)) for computed in values)
    return [_separated(one, contrast, groups) for one, contrast in zip(found, contrasts, strict=True)]


def _separated(found: Interval, contrast: Contrast, groups: np.ndarray) -> Interval:
    counted = contrast.weights > 0
    num = min(len(np.unique(groups[counted & (contrast.labels == label)])) for label in (True, False))
    return at_its_bound(found, num)


def mean_interval(values: np.ndarray, groups: np.ndarray, seed: int, num: int) -> Interval:
    """The mean of n `values` in 0..1 with its 95 % percentile interval over resamples of whole `groups`."""
    drawn = [block @ values / block.sum(axis=1) for block in resamples(groups, seed, num)]
    found = _percentile_interval(np.concatenate([[values.mean()], *drawn]))
    return not_degenerate(found, len(np.unique(groups)))


def _percentile_interval(values: np.ndarray) -> Interval:
    whole, drawn = values[0], values[1:]
    low = np.percentile(np.nan_to_num(drawn, nan=0.0), 2.5)
    high = np.percentile(np.nan_to_num(drawn, nan=1.0), 97.5)
    return Interval(value=float(whole), low=float(low), high=float(high))


def percentiles(value: float, drawn: np.ndarray) -> Interval:
    """A number with the 2.5th and 97.5th percentile of what was drawn; NaN is passed over, but not all may be NaN."""
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Interval(value=value, low=float(low), high=float(high))


def shuffled_intervals(contrasts: Sequence[Contrast], strata: np.ndarray, seed: int, num: int) -> list[Interval]:
    """What each contrast's AUROC is when labels mean nothing: mean and 95 % range over `num` permutations.

    Labels change places within a stratum only (`strata` has n values), so what the strata themselves tell stays. The
    weights of a contrast only choose images (0 or 1), whole strata each.
    """
    generator = np.random.default_rng(derive_seed(seed, "shuffled"))
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    chosen = [np.flatnonzero(contrast.weights) for contrast in contrasts]
    ranks = [rankdata(contrast.scores[rows]) for contrast, rows in zip(contrasts, chosen, strict=True)]
    values = np.empty((num, len(contrasts)))
    for i in range(num):
        order = np.arange(len(strata))
        for images in members:
            order[images] = generator.permutation(images)
        for j, (contrast, rows) in enumerate(zip(contrasts, chosen, strict=True)):
            values[i, j] = _rank_auroc(ranks[j], contrast.labels[order[rows]])
    low, high = np.percentile(values, (2.5, 97.5), axis=0) if len(contrasts) else ((), ())
    means = values.mean(axis=0)
    return [Interval(value=float(v), low=float(a), high=float(b)) for v, a, b in zip(means, low, high, strict=True)]


def _rank_auroc(ranks: np.ndarray, labels: np.ndarray) -> float:
    """AUROC from mid-ranks: the Mann-Whitney statistic over the number of pairs."""
    positive = int(labels.sum())
    below = ranks[labels].sum() - positive * (positive + 1) / 2
    return float(below / (positive * (len(labels) - positive)))


class Bootstrap:
    """Resamples of one test set and one list of training seeds, the same for all arms, so that arms can be paired."""

    def __init__(self, labels: np.ndarray, patients: np.ndarray, num_seeds: int, seed: int) -> None:
        self.labels = labels
        of_class = [len(np.unique(patients[labels == label])) for label in np.unique(labels)]
        self._nums = len(np.unique(patients)), min(of_class)  # behind accuracy and AUROC
        self._weights = patient_weights(patients, seed)
        generator = np.random.default_rng(derive_seed(seed, "training seeds"))
        self._seeds = generator.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds))

    def one(self, scores: np.ndarray) -> Scores:
        """Of one classifier, or of a rule: the intervals are over patients."""
        return self._scores(self._values([scores]), np.zeros((NUM_RESAMPLES, 1), int), at_its_bound)

    def mean(self, scores: Sequence[np.ndarray]) -> Scores:
        """The mean over training seeds: the intervals are over seeds and patients."""
        return self._scores(self._values(scores), self._seeds, at_its_bound)

    def difference(self, scores: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> Scores:
        """The mean of `scores` minus that of `base`, paired by seed and patient; exactly 0 where they are the same."""
        change = self._values(scores) - self._values(base)
        are_same = np.array_equal(scores, base)
        return self._scores(change, self._seeds, _as_it_is if are_same else partial(not_degenerate, least=-1.0))

    def _values(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """(metric, seed, 1 + NUM_RESAMPLES): on all test images, then on each resample."""
        whole = np.ones((1, len(self.labels)), int)
        parts = [whole, *(self._weights[i : i + _AT_ONCE] for i in range(0, NUM_RESAMPLES, _AT_ONCE))]
        return np.array(
            [
                [np.concatenate([metric(s, self.labels, w) for w in parts]) for s in scores]
                for metric in (accuracy, auroc)
            ]
        )

    def _scores(self, values: np.ndarray, seeds: np.ndarray, checked: Callable[[Interval, float], Interval]) -> Scores:
        resamples = np.arange(NUM_RESAMPLES)[:, None]
        intervals = []
        for metric, num in zip(values, self._nums, strict=True):
            drawn = metric[seeds, 1 + resamples].mean(axis=1)
            intervals.append(checked(percentiles(float(metric[:, 0].mean()), drawn), num))
        return Scores(accuracy=intervals[0], auroc=intervals[1])


def view_rule(train_views: np.ndarray, train_labels: np.ndarray, test_views: np.ndarray) -> np.ndarray:
    """The label from the view alone: for each test image, the share of positives among training images of its view.

    A view that training does not have scores 0.5. The threshold 0.5 on this score is the best decision per view.
    """
    shares = {view: float(train_labels[train_views == view].mean()) for view in np.unique(train_views)}
    return np.array([shares.get(view, 0.5) for view in test_views])
