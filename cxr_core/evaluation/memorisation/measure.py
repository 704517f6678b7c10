"""Memorisation: synthetic images beside their nearest training images, and beside what other patients are to these."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.memorisation.copies import SPECTRA, spectra, thumbnail
from cxr_core.evaluation.memorisation.plants import PLANTS
from cxr_core.evaluation.memorisation.results import MemorisationResult, Nearest, Nearness, Pair, Planted
from cxr_core.evaluation.memorisation.search import NEAR_IDENTICAL, Found, Search, Seen
from cxr_core.evaluation.memorisation.settings import Memorisation
from cxr_core.evaluation.memorisation.shares import images_needed, share_above
from cxr_core.evaluation.memorisation.targeted import extract
from cxr_core.evaluation.pools import in_hash_order
from cxr_core.seeds import derive_seed, unit_hash

NUM_PAIRS = 60
"""Pairs that are listed."""
_NUM_BINS = 40
_MIN_RECALL = 0.95


def measure(real: Dataset, seen: Seen, synthetic: Seen, settings: Memorisation, seed: int) -> MemorisationResult:
    """Look for copies of the training images among the synthetic ones.

    `seen` are the training and held-out images of `real`; all embeddings of it must be those of `synthetic`.
    """
    search = Search(seen)
    held_out = seen.places(*HELD_OUT)
    sample = training_sample(seen.rows, settings.num_train, seed)
    sets = [search.synthetic(synthetic), search.held_out(held_out), search.others(sample)]
    patients = [seen.rows["patient_id"].to_numpy(str)[places] for places in (held_out, sample)]
    embeddings = [
        nearness(name, [found.similarity[name] for found in sets], patients, settings.percentile, seed)
        for name in seen.vectors
    ]
    pixels = nearness("pixels, aligned", [found.scores for found in sets], patients, settings.percentile, seed)
    planted = try_search(real, search, pixels, settings.num_planted, seed)
    return MemorisationResult(
        num_train=len(search.train),
        num_train_patients=len(np.unique(search.patients)),
        percentile=settings.percentile,
        near_identical=NEAR_IDENTICAL,
        num_left_out=sum(found.num_left_out for found in sets),
        embeddings=tuple(embeddings),
        pixels=pixels,
        planted=tuple(planted),
        pairs=_pairs(synthetic, search, sets[0], pixels),
        num_flagged=pixels.num_above,
        picture=None,
        verdict=verdict(pixels, planted, settings.percentile),
        targeted=extract(seen, synthetic, settings.targeted.max_images, pixels, seed) if settings.targeted else None,
    )


def training_sample(rows: pd.DataFrame, most: int, seed: int) -> np.ndarray:
    """Places of training images among `rows`: whole patients in the order of their hash, `most` images at most."""
    is_train = rows["split"] == "train"
    sizes = rows.loc[is_train, "patient_id"].value_counts()
    order = sorted(sizes.index, key=lambda name: (unit_hash(seed, "train to train", name), name))
    chosen = sizes[order].cumsum() <= most
    return np.flatnonzero(is_train & rows["patient_id"].isin(chosen.index[chosen]))


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


def try_search(real: Dataset, search: Search, pixels: Nearness, num: int, seed: int) -> list[Planted]:
    """Plant copies of training images and say how many the copy check finds."""
    if pixels.threshold is None:
        return []
    rows = real.rows.set_index("image_id", drop=False).loc[search.real.rows["image_id"].iloc[search.train]]
    numbered = rows.assign(_place=np.arange(len(rows))).reset_index(drop=True)
    chosen = in_hash_order(numbered, seed, "planted copies").head(num)
    images, places = real.images(chosen), chosen["_place"].to_numpy()
    draw = np.random.default_rng(derive_seed(seed, "planted copies"))
    found = []
    for kind, plant in PLANTS.items():
        thumbs = np.stack([thumbnail(plant(image, draw)) for image in images])
        looked = search.planted(SPECTRA, spectra(thumbs), thumbs)
        hit = (looked.candidates == places[:, None]).any(axis=1) & (looked.scores > pixels.threshold.value)
        found.append(Planted(kind=kind, num_images=len(images), recall=float(hit.mean())))
    return found


def _pairs(synthetic: Seen, search: Search, found: Found, pixels: Nearness) -> tuple[Pair, ...]:
    threshold = np.inf if pixels.threshold is None else pixels.threshold.value
    training = search.real.rows.iloc[search.train]
    pairs = []
    for i in np.argsort(-found.scores, kind="stable")[:NUM_PAIRS].tolist():
        how, real = found.how[i], training.iloc[found.best[i]]
        pairs.append(
            Pair(
                synthetic=synthetic.rows["image_id"].iloc[i],
                training=real["image_id"],
                patient=real["patient_id"],
                score=how.score,
                mirrored=how.mirrored,
                right=how.right,
                down=how.down,
                flagged=how.score > threshold,
            )
        )
    return tuple(pairs)


def verdict(pixels: Nearness, planted: Sequence[Planted], percentile: float) -> str:
    """What the copy check says, or why it says nothing."""
    if pixels.share_above is None:
        return f"Whether synthetic images are copies cannot be told: {pixels.not_computed}."
    missed = [f"{100 * each.recall:.0f} % of {each.kind} ones" for each in planted if each.recall < _MIN_RECALL]
    blind = f" The check is weak here: of planted copies it found only {', '.join(missed)}." if missed else ""
    share, floor = pixels.share_above, 100 - percentile
    numbers = f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f} %) of synthetic images"
    said = f"{numbers} align with a training image better than {percentile:g} % of held-out images do"
    if pixels.alarm:
        return f"{said}: more than the {floor:g} % of real patients. Look at the pairs.{blind}"
    return f"{said}, which is not shown to be more than the {floor:g} % of real patients.{blind}"
