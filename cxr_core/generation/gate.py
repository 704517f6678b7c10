"""The gate: each drawn image is looked at; what shows other findings, no radiograph or a training image is redrawn.

Every bound is taken from real validation images, so that nobody has to guess one: what is asked of a drawn image is
what all but a small share of real images with its findings meet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.errors import UserError
from cxr_core.generation.originals import Original, Originals
from cxr_core.generation.settings import Gate
from cxr_core.models.classifier import Classifier, as_input, load
from cxr_core.models.classifier_folder import classifier_sha256, read_about
from cxr_core.models.scores import auroc
from cxr_core.seeds import unit_hash
from cxr_core.settings import Settings

_FEWEST = 10
"""Real images with a finding, and as many without, below which a classifier's word on it cannot be tried."""
_THUMB = 16
"""Pixels a side of the thumbnails whose distance tells near-duplicates."""
_RARE = 0.01
"""Real images are as flat, or as near to their nearest, only so seldom; half of that is beyond what is real."""
_AT_ONCE = 64


class Bound(Settings):
    """What is asked of images with one finding, and how well the classifier tells it on real ones."""

    num_with: int
    """Real images with it, on which it was tried."""
    num_without: int
    """Those without."""
    auroc: float | None = None
    """Of the classifier's score on these; None where there are too few."""
    score: float | None = None
    """What an image with the finding has to score at least; None where the finding is not gated."""
    refused: str | None = None
    """Why it is not."""


class Rule(Settings):
    """All bounds of a gate, as `plan/gate.json` holds them."""

    format: int = 1
    """Version of this form."""
    sha256: str
    """Of the classifier."""
    preset: str
    """Its architecture."""
    dataset: str | None
    """Digest of the Dataset that it learnt from."""
    num_real: int
    """Real validation images that the bounds are taken from."""
    findings: tuple[str, ...]
    """The classifier's outputs."""
    bounds: dict[str, Bound]
    """Of each of its findings in the vocabulary, and of No Finding."""
    min_spread: float
    """Standard deviation of grey values (of 255) below which an image is too flat for a radiograph."""
    min_distance: float
    """Distance of thumbnails (see `distances`) below which two images are near-duplicates."""
    max_alike: float
    """Correlation with a training image, aligned pixel by pixel, above which an image repeats it."""
    num_train: int
    """Training images that are looked at for this."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one image.

    `reasons` are (kind, detail) of all that is wrong; `margin` is by how much its worst score lies above the bound, 0
    where nothing is gated; `scores` are the classifier's of all its findings.
    """

    reasons: tuple[tuple[str, str], ...]
    margin: float
    scores: np.ndarray

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons

    @property
    def rank(self) -> tuple[bool, float]:
        """Of two images that did not pass, the one with the higher rank is better: a radiograph before its findings."""
        return all(kind == NOT_SEEN for kind, _ in self.reasons), self.margin


NOT_SEEN = "finding_not_seen"


class Gatekeeper:
    """Looks at the images of one shard in the order in which they are drawn."""

    def __init__(self, judge: Classifier, rule: Rule, vocabulary: Findings, originals: Originals) -> None:
        self._judge, self._rule, self._vocabulary, self._originals = judge, rule, vocabulary, originals
        self._thumbs, self._num_stored = np.empty((64, _THUMB * _THUMB), np.float32), 0

    def examine(self, images: np.ndarray, labels: Sequence[int]) -> list[Verdict]:
        """Verdicts on uint8 (n, size, size), asked for with `labels`. Those that pass count as stored from then on."""
        scores, originals = scores_of(self._judge, images), self._originals.nearest(images)
        return [self._verdict(*each) for each in zip(images, labels, scores, originals, strict=True)]

    def store(self, image: np.ndarray) -> None:
        """Remember that an image of the shard looks like this."""
        if self._num_stored == len(self._thumbs):
            self._thumbs = np.concatenate([self._thumbs, np.empty_like(self._thumbs)])
        self._thumbs[self._num_stored] = thumbnails([image])[0]
        self._num_stored += 1

    def record(self, labels: int, verdict: Verdict) -> dict[str, Any]:
        """What an image records of its verdict: whether it passed, its margin, and the scores of what it shows."""
        asked = self._vocabulary.decode(labels)
        scores = zip(self._rule.findings, verdict.scores.tolist(), strict=True)
        return {
            "passed": verdict.passed,
            "margin": round(verdict.margin, 4),
            "scores": {name: round(score, 4) for name, score in scores if name in asked},
        }

    def _verdict(self, image: np.ndarray, labels: int, scores: np.ndarray, original: Original) -> Verdict:
        margins = self._margins(labels, scores)
        reasons = [*self._unlike_a_radiograph(image), *self._repeats(original)]
        reasons += [
            (NOT_SEEN, f"{name}: {-margin:.3f} below its bound") for name, margin in margins.items() if margin < 0
        ]
        verdict = Verdict(tuple(reasons), min(margins.values(), default=0.0), scores)
        if verdict.passed:
            self.store(image)
        return verdict

    def _unlike_a_radiograph(self, image: np.ndarray) -> Iterable[tuple[str, str]]:
        spread = float(image.std())
        if spread < self._rule.min_spread:
            yield "flat", f"grey values spread by {spread:.2f} of 255, below {self._rule.min_spread:.2f}"
        nearest = distances(thumbnails([image]), self._thumbs[: self._num_stored]).min(initial=np.inf)
        if nearest < self._rule.min_distance:
            yield "near_duplicate", f"{nearest:.4f} from another of its shard, below {self._rule.min_distance:.4f}"

    def _repeats(self, original: Original) -> Iterable[tuple[str, str]]:
        if original.score > self._rule.max_alike:
            alike = f"correlation {original.score:.3f} with training image {original.image_id}"
            yield "training_copy", f"{alike}, above {self._rule.max_alike:.3f}"

    def _margins(self, labels: int, scores: np.ndarray) -> dict[str, float]:
        """By how much the score of each gated finding that was asked for lies above its bound."""
        shown = with_no_finding(scores[None], self._rule.findings, self._rule.bounds)[0]
        names = (*self._rule.findings, NO_FINDING)
        asked = set(self._vocabulary.decode(labels))
        return {
            name: float(score) - bound.score
            for name, score in zip(names, shown, strict=True)
            if name in asked and (bound := self._rule.bounds.get(name)) and bound.score is not None
        }


@lru_cache(maxsize=1)
def open_judge(folder: Path) -> tuple[Classifier, str]:
    """The classifier of a gate and its sha256. Kept for the next shard. Raises UserError if it is none."""
    return load(folder), classifier_sha256(folder)


def open_gate(folder: Path, rule: Rule, vocabulary: Findings, originals: Originals) -> Gatekeeper:
    """A gatekeeper for one shard. Raises UserError if the classifier is not that of the rule."""
    judge, found = open_judge(folder)
    if found != rule.sha256:
        raise UserError(
            f"the gate's classifier changed since the plan: sha256 {found[:16]}, planned {rule.sha256[:16]}",
            where=str(folder),
            hint="put the planned weights back, or start the run under another name",
        )
    return Gatekeeper(judge, rule, vocabulary, originals)


@torch.inference_mode()
def scores_of(judge: Classifier, images: np.ndarray) -> np.ndarray:
    """The classifier's scores float32 (n, num_findings) in 0..1 of uint8 (n, size, size)."""
    pixels = as_input(images, judge.info.image_size)
    return judge(pixels.to(judge.device)).sigmoid().cpu().numpy()


def with_no_finding(scores: np.ndarray, findings: Sequence[str], bounds: Mapping[str, Bound]) -> np.ndarray:
    """Scores (n, num_findings) with a last column for No Finding: how far the worst finding is below its own bound."""
    gated = [(i, bounds[name].score) for i, name in enumerate(findings) if name in bounds]
    over = [scores[:, i] - bound for i, bound in gated if bound is not None]
    none = -np.max(over, axis=0) if over else np.zeros(len(scores))
    return np.column_stack([scores, none])


def thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    """Each image as float32 of mean 0 and variance 1, `_THUMB` pixels a side: (n, _THUMB * _THUMB)."""
    small = [cv2.resize(image, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).ravel() for image in images]
    plain = np.array(small, np.float32).reshape(-1, _THUMB * _THUMB)
    plain -= plain.mean(axis=1, keepdims=True)
    return plain / np.maximum(plain.std(axis=1, keepdims=True), 1e-3)


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square difference of thumbnails (n, m): 0 for equal pictures of any brightness and contrast."""
    alike = some @ others.T / some.shape[1]
    return np.sqrt(np.maximum(2 - 2 * alike, 0))


def calibrate(folder: Path, like: Dataset, originals: Originals, gate: Gate, threads: int) -> Rule:
    """The bounds of a gate, with the classifier in `folder`, from real validation images; `originals` are of `like`.

    Raises UserError where there are too few of them.
    """
    torch.set_num_threads(threads)
    judge, sha256 = open_judge(folder)
    rows = like.of_split("val")
    if len(rows) < 2 * _FEWEST:
        raise UserError(
            f"a gate takes its bounds from real validation images, and there are {len(rows)} of {2 * _FEWEST}",
            where=str(like.folder),
            hint="set `validation` of its preprocess stage higher, or do without a gate",
        )
    order = np.argsort([unit_hash("gate", image_id) for image_id in rows["image_id"]], kind="stable")
    rows = rows.iloc[order[: gate.num_real]]
    parts = [like.images(rows.iloc[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)]
    scores = np.concatenate([scores_of(judge, images) for images in parts])
    thumbs = np.concatenate([thumbnails(images) for images in parts])
    apart = distances(thumbs, thumbs)
    apart[rows["patient_id"].to_numpy()[:, None] == rows["patient_id"].to_numpy()] = np.inf
    nearest = apart.min(axis=1)
    alike = np.array([found.score for images in parts for found in originals.nearest(images)])
    return Rule(
        sha256=sha256,
        preset=judge.info.preset,
        dataset=read_about(folder).get("dataset"),
        num_real=len(rows),
        findings=judge.info.findings,
        bounds=_bounds(scores, rows["labels"].to_numpy(), judge.info.findings, like.findings, gate),
        min_spread=_half_of_rare(np.concatenate([images.std(axis=(1, 2)) for images in parts])),
        min_distance=_half_of_rare(nearest[np.isfinite(nearest)]),
        max_alike=1 - _half_of_rare(1 - alike),
        num_train=len(originals),
    )


def _half_of_rare(values: np.ndarray) -> float:
    return float(np.quantile(values, _RARE)) / 2 if len(values) else 0.0


def _bounds(
    scores: np.ndarray, labels: np.ndarray, findings: Sequence[str], vocabulary: Findings, gate: Gate
) -> dict[str, Bound]:
    """Of each finding; last of No Finding, whose score hangs on the others' bounds."""
    known = [name for name in findings if name in vocabulary.names]
    bounds = {name: _bound(scores[:, findings.index(name)], labels & vocabulary.bit(name) != 0, gate) for name in known}
    bounds[NO_FINDING] = _bound(with_no_finding(scores, findings, bounds)[:, -1], labels == 0, gate)
    return bounds


def _bound(scores: np.ndarray, has: np.ndarray, gate: Gate) -> Bound:
    num_with, num_without = int(has.sum()), int((~has).sum())
    if min(num_with, num_without) < _FEWEST:
        few = f"{num_with} real validation images with it and {num_without} without: {_FEWEST} are needed"
        return Bound(num_with=num_with, num_without=num_without, refused=few)
    area = float(auroc(scores, has, np.ones(len(scores))))
    if area < gate.min_auroc:
        bad = f"told on real validation images with AUROC {area:.2f}, below {gate.min_auroc:.2f}"
        return Bound(num_with=num_with, num_without=num_without, auroc=area, refused=bad)
    bound = float(np.quantile(scores[has], gate.real_rejected))
    return Bound(num_with=num_with, num_without=num_without, auroc=area, score=bound)
