"""Fidelity: how far synthetic images lie from held-out real patients, beside how far these lie from each other.

FID falls with n, so two numbers are set side by side only at equal effective n. All sides of a comparison have the
label x view mix of the synthetic Dataset.
"""

from dataclasses import dataclass

import numpy as np

from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.evaluation.distances import fid, kid
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.fidelity_results import (
    Coverage,
    Distance,
    Extractor,
    FidelityResult,
    FindingDistance,
    Missing,
    Resize,
    Side,
    SubsetKid,
)
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import patient_weights
from cxr_core.evaluation.mix import Mix, Sample, cell_names, halves
from cxr_core.evaluation.mix_kid import kid_in_mix
from cxr_core.evaluation.pools import has_finding
from cxr_core.runs.progress import bar
from cxr_core.seeds import derive_seed

HELD_OUT = ("val", "test")
_NEEDED = 2
"""Effective images that are needed, in feature widths: with fewer a covariance says more of the sample than of it."""
_NUM_SUBSETS, _SUBSET_SIZE = 100, 1000
"""Subsets for KID's deviation, and images of each side in one at most, as torchmetrics has them."""
_LACKING = 0.05
"""Part of the resamples that may have a single image, at most."""
_NAMED = 8
"""Cells left out that are named; the others are counted."""


@dataclass(frozen=True)
class ComparedImages:
    """One side of a comparison: a sample with what it is called."""

    what: str
    sample: Sample
    is_real: bool

    def side(self) -> Side:
        groups = np.unique(self.sample.groups)
        num_patients = len(groups) if self.is_real else None
        num_images, effective = len(self.sample), round(self.sample.effective, 1)
        return Side(what=self.what, num_images=num_images, num_patients=num_patients, effective=effective)


@dataclass(frozen=True)
class Comparer:
    """What all comparisons of one evaluation share; `seed` decides halves, subsets and resamples."""

    findings: Findings
    num_resamples: int
    seed: int
    withheld: str | None = None

    def distance(self, a: ComparedImages, b: ComparedImages, mix: Mix) -> Distance:
        """FID and KID of two sets with their intervals, or why there are none."""
        coverage = _coverage(mix, self.findings)
        bare = Distance(a=a.side(), b=b.side(), coverage=coverage)
        short = coverage.num_cells == 0 and "no combination of labels and view has images on every side"
        if reason := self.withheld or short or _too_few(a) or _too_few(b):
            return bare.model_copy(update={"not_computed": reason})
        x, y = a.sample, b.sample
        weights = [self._weights(side.sample, side.what) for side in (a, b)]
        # Of the resamples only the spread is taken, so what biases their values does not matter.
        resampled = kid(x.features, y.features, *(each[1:] for each in weights))
        kids = np.array([kid_in_mix(x, y), *resampled])
        fids = np.empty(1 + self.num_resamples)
        with bar(f"FID of {a.what} to {b.what}", len(fids)) as progress:
            for i, pair in enumerate(zip(*weights, strict=True)):
                fids[i] = fid(x.features, y.features, *pair, rough=i > 0)
                progress.advance()
        if reason := _too_few_resamples(fids[1:], a, b):
            return bare.model_copy(update={"not_computed": reason})
        known = {"kid": _interval(kids)} if np.isfinite(kids[0]) else {}
        return bare.model_copy(update={"fid": _interval(fids, at_least=0), **known})

    def subsets(self, x: Sample, y: Sample) -> SubsetKid | None:
        """KID of subsets that are drawn by chance, each brought to the mix; None where none of them has any."""
        generator = np.random.default_rng(derive_seed(self.seed, "subsets"))
        size = min(_SUBSET_SIZE, len(x) // 2, len(y) // 2)
        kids = np.empty(_NUM_SUBSETS)
        for i in range(_NUM_SUBSETS):
            a, b = (side.take(generator.choice(len(side), size, replace=False)) for side in (x, y))
            kids[i] = kid_in_mix(a, b)
        kids = kids[np.isfinite(kids)]
        if not len(kids):
            return None
        return SubsetKid(mean=float(kids.mean()), deviation=float(kids.std()), num=len(kids), size=size)

    def _weights(self, sample: Sample, what: str) -> np.ndarray:
        """(1 + resamples, n): of the set itself, then of each resample of its patients or images."""
        counts = patient_weights(sample.groups, derive_seed(self.seed, "bootstrap", what), self.num_resamples)
        return np.concatenate([sample.weights()[None], sample.weights(counts)])


def measure(
    real: FeatureRows,
    synthetic: FeatureRows,
    extractor: Extractor,
    sizes: tuple[int, int],
    findings: Findings,
    num_resamples: int,
    seed: int,
    withheld: str | None = None,
    each_finding: bool = True,
) -> FidelityResult:
    """All comparisons of a synthetic Dataset with the real one.

    `real` holds the held-out images and those of training; `sizes` are the stored pixels a side of real and synthetic
    images; `withheld` says why no number is to be given at all; with `each_finding` the headline is measured for each.
    """
    compare = Comparer(findings, num_resamples, seed, withheld)
    held_out = real.where(real.rows["split"].isin(HELD_OUT))
    train = real.where(real.rows["split"] == "train")
    beside_floor, floor = _floor(compare, held_out, synthetic)
    to_held_out, to_train = _copying(compare, held_out, train, synthetic)
    return FidelityResult(
        extractor=extractor,
        resize=Resize(real=sizes[0], synthetic=sizes[1], to=extractor.size, method=extractor.method),
        comparable=extractor.kind != "judge",
        resamples=num_resamples,
        headline=_all(compare, held_out, synthetic, subsets=True),
        beside_floor=beside_floor,
        floor=floor,
        to_held_out=to_held_out,
        to_train=to_train,
        by_finding=_by_finding(compare, held_out, synthetic) if each_finding else (),
        alarm=judge_copying(to_held_out, to_train, floor),
    )


def _all(compare: Comparer, held_out: FeatureRows, synthetic: FeatureRows, *, subsets: bool = False) -> Distance:
    """All synthetic images against all held-out ones; with `subsets`, KID of these too."""
    mix = Mix.of(synthetic.rows, [held_out.rows])
    drawn, reference = _synthetic(mix, synthetic), _real(mix, held_out, "held-out images")
    found = compare.distance(drawn, reference, mix)
    if found.kid is None or not subsets:
        return found
    return found.model_copy(update={"subsets": compare.subsets(drawn.sample, reference.sample)})


def findings_of(synthetic: FeatureRows, findings: Findings) -> list[str]:
    """Findings that synthetic images were asked for with, in the order of the vocabulary; then No Finding."""
    names = (*findings.names, NO_FINDING)
    return [name for name in names if has_finding(synthetic.rows["labels"], name, "any", findings).any()]


def with_finding(images: FeatureRows, finding: str, findings: Findings) -> FeatureRows:
    """The images that have it, alone or among others; No Finding alone."""
    return images.where(has_finding(images.rows["labels"], finding, "any", findings))


def _by_finding(compare: Comparer, held_out: FeatureRows, synthetic: FeatureRows) -> tuple[FindingDistance, ...]:
    names, known = findings_of(synthetic, compare.findings), compare.findings
    pairs = {name: [with_finding(side, name, known) for side in (held_out, synthetic)] for name in names}
    return tuple(FindingDistance(finding=name, distance=_all(compare, *pair)) for name, pair in pairs.items())


def _floor(compare: Comparer, held_out: FeatureRows, synthetic: FeatureRows) -> tuple[Distance, Distance]:
    """Synthetic images, and the second half of the held-out patients, against the first half, at one effective n."""
    first, second = (held_out.where(half) for half in halves(held_out.rows["patient_id"], compare.seed))
    mix = Mix.of(synthetic.rows, [first.rows, second.rows])
    drawn = _synthetic(mix, synthetic)
    against = _real(mix, first, "one half of the held-out patients")
    other = _thinned(_real(mix, second, "the other half of the held-out patients"), len(drawn.sample), compare.seed)
    some = _some(drawn, other, compare.seed)
    return compare.distance(some, against, mix), compare.distance(other, against, mix)


def _copying(
    compare: Comparer, held_out: FeatureRows, train: FeatureRows, synthetic: FeatureRows
) -> tuple[Distance, Distance]:
    """Synthetic images against held-out and against training patients, at one effective n of these."""
    mix = Mix.of(synthetic.rows, [held_out.rows, train.rows])
    drawn = _synthetic(mix, synthetic)
    references = [_real(mix, held_out, "held-out images"), _real(mix, train, "training images")]
    smaller = min(reference.sample.effective for reference in references)
    outside, inside = (_thinned(reference, smaller, compare.seed) for reference in references)
    return compare.distance(drawn, outside, mix), compare.distance(drawn, inside, mix)


def judge_copying(to_held_out: Distance, to_train: Distance, floor: Distance) -> bool | None:
    """Whether synthetic images are nearer to training patients by more than the width of the floor's interval; None
    where one of the three is not computed."""
    if to_train.fid is None or to_held_out.fid is None or floor.fid is None:
        return None
    return to_held_out.fid.value - to_train.fid.value > floor.fid.high - floor.fid.low


def _real(mix: Mix, images: FeatureRows, what: str) -> ComparedImages:
    return ComparedImages(what, mix.sample(images.rows, images.features, images.rows["patient_id"]), True)


def _synthetic(mix: Mix, images: FeatureRows) -> ComparedImages:
    return ComparedImages("synthetic images", mix.sample(images.rows, images.features, images.rows["image_id"]), False)


def _thinned(whole: ComparedImages, effective: float, seed: int) -> ComparedImages:
    return ComparedImages(whole.what, whole.sample.thinned(effective, derive_seed(seed, "thin")), whole.is_real)


def _some(drawn: ComparedImages, like: ComparedImages, seed: int) -> ComparedImages:
    """As many synthetic images as `like` has in effect."""
    num = round(like.sample.effective)
    return ComparedImages(drawn.what, drawn.sample.stratified(num, derive_seed(seed, "subset")), False)


def _too_few(side: ComparedImages) -> str | None:
    width = side.sample.features.shape[1]
    kind = side.what if side.what.endswith("images") else f"images of {side.what}"
    num_groups = len(np.unique(side.sample.groups))
    if side.sample.effective >= _NEEDED * width:
        # Resamples of one patient are all alike, and would say that chance plays no part.
        return None if num_groups > 1 else f"n = 1 patient ({kind}), 2 are needed to tell what chance does"
    return (
        f"n = {int(side.sample.effective)} effective {kind}, {_NEEDED * width} are needed "
        f"({_NEEDED} x {width} features)"
    )


def _too_few_resamples(fids: np.ndarray, a: ComparedImages, b: ComparedImages) -> str | None:
    """Why resamples do not tell an interval: patients are so few that many of them are of one image."""
    lacking = int(np.isnan(fids).sum())
    if lacking <= _LACKING * len(fids):
        return None
    num, what = min((len(np.unique(side.sample.groups)), side.what) for side in (a, b) if side.is_real)
    return f"n = {num} patients of {what}: {lacking} of {len(fids)} resamples of them have a single image"


def _interval(values: np.ndarray, at_least: float = -np.inf) -> Interval:
    """The first value, with the spread of the others around their mean; a few of these may be NaN.

    A resample repeats images, which biases FID as a smaller n does; that shift is no part of the interval. Where two
    sets hardly differ, resamples spread more than KID itself does (nearly twice as much, seen on gaussians), as those
    of a degenerate U-statistic do: its interval is then too wide rather than too narrow.
    """
    value, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    low, high = value + np.percentile(drawn, (2.5, 97.5)) - drawn.mean()
    return Interval(value=value, low=max(float(low), at_least), high=float(high))


def _coverage(mix: Mix, findings: Findings) -> Coverage:
    names = cell_names(mix.lacking, findings)
    missing = [Missing(cell=n, share=s) for n, s in zip(names[:_NAMED], mix.lacking, strict=False)]
    return Coverage(share=mix.coverage, num_cells=len(mix.shares), num_missing=len(names), missing=tuple(missing))
