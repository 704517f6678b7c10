"""Memorisation: synthetic images beside their nearest training images, and beside what other patients are to these."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxr_core.evaluation.memorisation.results import CopyPair, MemorisationResult, Nearest, Nearness, Planted
from cxr_core.evaluation.memorisation.search import NEAR_IDENTICAL, SIMILARITY, SearchedImages
from cxr_core.evaluation.memorisation.searched import HELD_OUT, PLANTED, TRAIN, real_places
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.memorisation.shares import images_needed, share_above
from cxr_core.evaluation.memorisation.targeted import extract
from cxr_core.seeds import derive_seed

NUM_PAIRS = 60
"""Pairs that are listed."""
_NUM_BINS = 40


def measure(
    real: SearchedImages,
    synthetic: SearchedImages,
    source: str,
    found: Mapping[str, pd.DataFrame],
    held_out: Sequence[str],
    settings: Memorisation,
    seed: int,
) -> MemorisationResult:
    """Are the synthetic images of a source copies of the training images?

    `found` is what the searches found (`searched.read_found`); `held_out` are the splits of held-out patients.
    """
    tables = [found[what] for what in (source, HELD_OUT, TRAIN)]
    places = real_places(real.rows, held_out, settings, seed)
    patients = [real.rows["patient_id"].to_numpy(str)[places[what]] for what in (HELD_OUT, TRAIN)]

    def near(name: str, column: str) -> Nearness:
        values = [table[column].to_numpy() for table in tables]
        return nearness(name, values, patients, settings.percentile, seed)

    training = real.rows[real.rows["split"] == "train"]
    pixels = near("pixels, aligned", "score")
    planted = tried(found[PLANTED], pixels)
    return MemorisationResult(
        num_train=len(training),
        num_train_patients=training["patient_id"].nunique(),
        percentile=settings.percentile,
        near_identical=NEAR_IDENTICAL,
        num_left_out=sum(int(table["left_out"].sum()) for table in tables),
        embeddings=tuple(near(name, SIMILARITY + name) for name in real.vectors),
        pixels=pixels,
        planted=planted,
        pairs=_pairs(synthetic.rows, training, tables[0], pixels),
        num_flagged=pixels.num_above,
        picture=None,
        targeted=extract(real, synthetic, settings.targeted.max_images, pixels, seed) if settings.targeted else None,
    )


def nearness(
    name: str, values: Sequence[np.ndarray], patients: Sequence[np.ndarray], percentile: float, seed: int
) -> Nearness:
    """Compare `values` of synthetic, held-out and training images; `patients` are of the last two."""
    synthetic, held_out, _ = values
    lowest = min((float(np.floor(found.min() * 20) / 20) for found in values if len(found)), default=0.0)
    whats = ("synthetic images", "held-out images", "training images, to other patients")
    groups = (None, *patients)
    sides = [_nearest(*each, lowest) for each in zip(whats, values, groups, strict=True)]
    bare = Nearness(name=name, synthetic=sides[0], held_out=sides[1], train=sides[2], lowest=lowest)
    needed = images_needed(percentile)
    if len(held_out) < needed or not len(synthetic):
        reason = f"n = {len(held_out):,} held-out images, {needed:,} are needed"
        return bare.model_copy(update={"not_computed": reason if len(synthetic) else "no synthetic image"})
    threshold, num_above, share = share_above(synthetic, held_out, patients[0], percentile, derive_seed(seed, name))
    found = {"threshold": threshold, "num_above": num_above, "share_above": share}
    return bare.model_copy(update={**found, "alarm": share.low > 1 - percentile / 100})


def _nearest(what: str, values: np.ndarray, patients: np.ndarray | None, lowest: float) -> Nearest:
    median, high, most = np.quantile(values, (0.5, 0.99, 1)) if len(values) else (0.0, 0.0, 0.0)
    return Nearest(
        what=what,
        num_images=len(values),
        num_patients=None if patients is None else len(np.unique(patients)),
        median=float(median),
        high=float(high),
        most=float(most),
        histogram=tuple(np.histogram(values, _NUM_BINS, (lowest, 1 + 1e-6))[0].tolist()),
    )


def tried(copies: pd.DataFrame, pixels: Nearness) -> tuple[Planted, ...]:
    """How many planted copies of each kind the copy check finds: their original is compared, and above the threshold.

    `copies` has the columns kind, is_compared and score; none is tried where there is no threshold.
    """
    if pixels.threshold is None:
        return ()
    hit = copies["is_compared"] & (copies["score"] > pixels.threshold.value)
    kinds = hit.groupby(copies["kind"], sort=False)
    return tuple(Planted(kind=str(kind), num_images=len(hits), recall=float(hits.mean())) for kind, hits in kinds)


def _pairs(
    synthetic: pd.DataFrame, training: pd.DataFrame, found: pd.DataFrame, pixels: Nearness
) -> tuple[CopyPair, ...]:
    threshold = np.inf if pixels.threshold is None else pixels.threshold.value
    first = np.argsort(-found["score"].to_numpy(), kind="stable")[:NUM_PAIRS]
    best = training.iloc[found["best"].iloc[first]]
    alignments = found[["score", "mirrored", "right", "down"]].iloc[first].to_dict("records")
    who = zip(synthetic["image_id"].iloc[first], best["image_id"], best["patient_id"], alignments, strict=True)
    return tuple(
        CopyPair.model_validate(
            {"synthetic": drawn, "training": real, "patient": patient, "flagged": how["score"] > threshold, **how}
        )
        for drawn, real, patient, how in who
    )
