"""What a gate let pass: counts by finding and by reason, and how well its scores follow the requests."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.settings import Settings

_BINS = 4096
"""Of a score in 0..1: AUROC from counts in so many bins is right to the third digit, at any number of images."""


class Accepted(Settings):
    """Of the images asked for with one finding, alone or among others."""

    asked: int
    """Images."""
    first: int
    """Of these, whose first draw passed."""
    passed: int
    """Those with a draw that passed; of the others the best is stored."""
    draws: int
    """Draws in all."""
    auroc_first: float | None = None
    """Of the gate's score between first draws asked for with the finding and without; None where it cannot tell."""
    auroc_stored: float | None = None
    """The same of the stored images: the gate's own view of its choice, so it flatters."""


class Acceptance(Settings):
    """What became of all draws of a Dataset."""

    images: int
    """Images of the Dataset."""
    draws: int
    """Draws in all."""
    first: int
    """Images whose first draw passed."""
    passed: int
    """Images with a draw that passed."""
    findings: dict[str, Accepted]
    """Of each finding that was asked for, and of No Finding."""
    reasons: dict[str, int]
    """Draws rejected for each reason; a draw may have several."""


class Tally:
    """Counts looks (`shard.LOOKS`) a shard at a time."""

    def __init__(self, known: tuple[str, ...], vocabulary: Findings) -> None:
        self._known, self._vocabulary = known, vocabulary
        self._counts: Counter[tuple[str, str]] = Counter()
        self._reasons: Counter[str] = Counter()
        # Of each known finding: first draws or stored ones, asked for without or with it, by score.
        self._scores = np.zeros((len(known), 2, 2, _BINS), np.int64)

    def add(self, looks: pa.Table) -> None:
        """Take in the looks of one shard."""
        labels, first = looks["labels"].to_numpy(), looks["draw"].to_numpy() == 0
        reasons = looks["reasons"].to_pylist()
        passed = np.array([not each for each in reasons], bool)
        self._reasons.update(reason for each in reasons for reason in each)
        for name in ("", NO_FINDING, *self._vocabulary.names):
            has = _having(labels, name, self._vocabulary)
            for what, which in {"asked": first, "first": first & passed, "passed": passed}.items():
                self._counts[name, what] += int((has & which).sum())
            self._counts[name, "draws"] += int(has.sum())
        self._add_scores(looks, labels, first)

    def result(self) -> Acceptance:
        """What was counted."""
        whole = self._of("")
        asked = [name for name in (*self._vocabulary.names, NO_FINDING) if self._counts[name, "asked"]]
        return Acceptance(
            images=whole["asked"],
            draws=whole["draws"],
            first=whole["first"],
            passed=whole["passed"],
            findings={name: Accepted.model_validate(self._of(name) | self._aurocs(name)) for name in asked},
            reasons=dict(sorted(self._reasons.items())),
        )

    def _add_scores(self, looks: pa.Table, labels: np.ndarray, first: np.ndarray) -> None:
        flat = looks["scores"].combine_chunks().flatten().to_numpy()
        bins = (flat.reshape(len(looks), len(self._known)) * (_BINS - 1)).round().astype(int)
        stored = looks["stored"].to_numpy()
        for i, name in enumerate(self._known):
            if name in self._vocabulary.names:
                has = _having(labels, name, self._vocabulary)
                for j, which in enumerate((first, stored)):
                    for k, group in enumerate((~has, has)):
                        self._scores[i, j, k] += np.bincount(bins[which & group, i], minlength=_BINS)

    def _of(self, name: str) -> dict[str, Any]:
        return {what: self._counts[name, what] for what in ("asked", "first", "passed", "draws")}

    def _aurocs(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            return {}
        first, stored = self._scores[self._known.index(name)]
        return {"auroc_first": _auroc(*first), "auroc_stored": _auroc(*stored)}


def tally(parts: Iterable[pa.Table], known: tuple[str, ...], vocabulary: Findings) -> Acceptance:
    """Acceptance over all shards; `known` are the findings that the gate scores."""
    counted = Tally(known, vocabulary)
    for looks in parts:
        counted.add(looks)
    return counted.result()


def acceptance_of(about: Mapping[str, Any]) -> Acceptance | None:
    """The acceptance that a Dataset's `about` records; None where it has no gate."""
    gate = about.get("gate")
    return Acceptance.model_validate(gate["acceptance"]) if gate else None


def _having(labels: np.ndarray, name: str, vocabulary: Findings) -> np.ndarray:
    """Of each image whether it was asked for with a finding; with "" all."""
    if not name:
        return np.ones(len(labels), bool)
    return labels == 0 if name == NO_FINDING else labels & vocabulary.bit(name) != 0


def _auroc(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """Area under the ROC curve from counts by score, ties counting half; None where a group is empty."""
    if not (negatives.any() and positives.any()):
        return None
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))
