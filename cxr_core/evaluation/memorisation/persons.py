"""Does a synthetic image match a training patient? Told by a siamese network, which is tried on held-out patients."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxr_core.data.neighbours import Blocks, nearest
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.intervals import Contrast, auroc_intervals
from cxr_core.evaluation.memorisation.measure import nearness
from cxr_core.evaluation.memorisation.results import Nearness, ReidentificationResult
from cxr_core.evaluation.memorisation.searched import training_sample
from cxr_core.evaluation.memorisation.settings import Reidentification
from cxr_core.evaluation.pools import in_hash_order
from cxr_core.seeds import derive_seed

_NUM_RESAMPLES = 1000
_NEEDED = 20
"""Held-out patients of several images without whom the network cannot be tried."""


def reidentify(
    rows: pd.DataFrame,
    vectors: np.ndarray,
    found: Mapping[str, np.ndarray],
    settings: Reidentification,
    num_train: int,
    seed: int,
) -> ReidentificationResult:
    """Try the network on held-out patients, then say how many synthetic images match a training patient.

    `rows` are the training and held-out images of `vectors` (n, width), of length 1; `found` is what `search_persons`
    found.
    """
    same, other, patients = trial_pairs(rows, seed)
    several = rows[rows["split"] == "train"]["patient_id"].value_counts()
    bare = ReidentificationResult(
        num_patients=int((several > 1).sum()),
        num_same=len(same),
        num_other=len(other),
        min_auroc=settings.min_auroc,
        false_matches=settings.false_match_rate,
    )
    if len(same) < _NEEDED:
        few = f"{len(same)} held-out patients have several images, {_NEEDED} are needed to try the network"
        return bare.model_copy(update={"refused": few})
    scores = np.concatenate([(vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1) for pairs in (same, other)])
    labels = np.repeat([True, False], len(same))
    contrast = Contrast(scores, labels, np.ones(len(scores)))
    (auroc,) = auroc_intervals([contrast], np.tile(patients, 2), derive_seed(seed, "persons"), _NUM_RESAMPLES)
    tried = bare.model_copy(update={"auroc": auroc})
    if auroc.low < settings.min_auroc:
        low = math.floor(100 * auroc.low) / 100
        words = f"AUROC {auroc.value:.2f} on held-out patients, lower bound {low:.2f} is below {settings.min_auroc:.2f}"
        return tried.model_copy(update={"refused": words})
    matches = _matches(rows, found, settings, num_train, seed)
    return tried.model_copy(update={"matches": matches, "true_matches": _true_matches(rows, vectors, matches)})


def trial_pairs(rows: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of places (n, 2) of one held-out patient, as many of two, and the patients (n,) of the first images.

    One pair a patient, drawn by hash. The other patient's image is of the view of the own one that it stands for, so
    that the view tells nothing; a patient in whose view no other has an image is left out.
    """
    held_out = rows.assign(_place=np.arange(len(rows)))[rows["split"].isin(HELD_OUT)]
    shuffled = in_hash_order(held_out, seed, "pairs of a patient")
    by_view = dict(list(shuffled.groupby("view")))
    same, other, patients = [], [], []
    for patient, group in shuffled.groupby("patient_id", sort=True):
        if len(group) < 2:
            continue
        first, second = group["_place"].iloc[0], group["_place"].iloc[1]
        others = by_view[group["view"].iloc[1]]
        others = others[others["patient_id"] != patient]
        if others.empty:
            continue
        same.append((first, second))
        other.append((first, others["_place"].iloc[derive_seed(seed, "another patient", str(patient)) % len(others)]))
        patients.append(str(patient))
    return np.array(same, int).reshape(-1, 2), np.array(other, int).reshape(-1, 2), np.array(patients, str)


def search_persons(
    rows: pd.DataFrame, vectors: np.ndarray, synthetic: np.ndarray, num_train: int, seed: int
) -> dict[str, np.ndarray]:
    """The similarity of each image to the nearest training image: of `synthetic` ones (m, width), of `held_out` ones
    and, of other patients, of a sample of `train`; `rows` are the training and held-out images of `vectors`."""
    names, train = rows["patient_id"].to_numpy(str), np.flatnonzero(rows["split"] == "train")
    sample = training_sample(rows, num_train, seed)
    return {
        "synthetic": _most(synthetic, vectors[train]),
        "held_out": _most(vectors[_held_out(rows)], vectors[train]),
        "train": _most(vectors[sample], vectors[train], names[sample], names[train]),
    }


def _held_out(rows: pd.DataFrame) -> np.ndarray:
    return np.flatnonzero(rows["split"].isin(HELD_OUT))


def _matches(
    rows: pd.DataFrame, found: Mapping[str, np.ndarray], settings: Reidentification, num_train: int, seed: int
) -> Nearness:
    names = rows["patient_id"].to_numpy(str)
    patients = [names[_held_out(rows)], names[training_sample(rows, num_train, seed)]]
    values = [found[name] for name in ("synthetic", "held_out", "train")]
    return nearness("siamese network", values, patients, 100 * (1 - settings.false_match_rate), seed)


def _most(
    queries: np.ndarray, references: np.ndarray, own: np.ndarray | None = None, patients: np.ndarray | None = None
) -> np.ndarray:
    """The largest similarity of each query (n,), to those of other patients where they are told."""
    if own is None or patients is None:
        return nearest(queries, _blocks(references), 1)[0][:, 0]
    k = 1 + int(pd.Series(patients).value_counts().reindex(np.unique(own)).max())
    similarity, places = nearest(queries, _blocks(references), k)
    return np.where(patients[places] == own[:, None], -1, similarity).max(axis=1)


def _blocks(references: np.ndarray) -> Blocks:
    return lambda: [np.ascontiguousarray(references)]


def _true_matches(rows: pd.DataFrame, vectors: np.ndarray, matches: Nearness) -> float | None:
    """Share of held-out images that another image of their own patient is a match of, at the threshold."""
    if matches.threshold is None:
        return None
    held_out = rows.assign(_place=np.arange(len(rows)))[rows["split"].isin(HELD_OUT)]
    hits: list[bool] = []
    for _, group in held_out.groupby("patient_id"):
        places = group["_place"].to_numpy()
        if len(places) > 1:
            similarity = vectors[places] @ vectors[places].T
            np.fill_diagonal(similarity, -1)
            hits += (similarity.max(axis=1) > matches.threshold.value).tolist()
    return float(np.mean(hits)) if hits else None
