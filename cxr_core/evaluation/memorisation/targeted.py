"""Targeted extraction: a caption that few training images have, drawn with many seeds, against these very images.

Carlini et al. 2023, arXiv 2301.13188, drew memorised images out of diffusion models so. How alike the best of many
draws is to the best of a few images says nothing alone, so every rare caption is compared with a common one, of which
as many draws and as many training images are taken.
"""

import numpy as np
import pandas as pd

from cxr_core.data.captions import CAPTION, matched
from cxr_core.data.copies import align, relief
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.intervals import not_degenerate, percentiles
from cxr_core.evaluation.memorisation.results import Nearness, TargetedResult
from cxr_core.evaluation.memorisation.search import SearchedImages
from cxr_core.evaluation.pools import in_hash_order
from cxr_core.runs.progress import bar
from cxr_core.seeds import derive_seed

_NUM_RESAMPLES = 1000
_NEEDED = 5
"""Rare captions without which no mean is told."""


def extract(
    real: SearchedImages, synthetic: SearchedImages, max_images: int, pixels: Nearness, seed: int
) -> TargetedResult:
    """Align the synthetic images of each rare caption with its own training images, beside those of its match.

    `pixels` is the copy check of all images, whose threshold says what a copy is.
    """
    table = matched(real.rows[real.rows["split"] == "train"], max_images)
    drawn, train = _by_caption(synthetic.rows), _by_caption(real.rows[real.rows["split"] == "train"])
    rare = [(int(labels), str(view)) for labels, view in zip(table["labels"], table["view"], strict=True)]
    pairs = [(own, (int(common), own[1])) for own, common in zip(rare, table["common"], strict=True) if own in drawn]
    both = [pair for pair in pairs if pair[1] in drawn]
    facts = TargetedResult(
        max_images=max_images,
        num_rare=len(rare),
        num_asked=len(pairs),
        num_images=sum(len(drawn[own]) for own, _ in pairs),
        num_matched=len({common for _, common in both}),
    )
    if len(both) < _NEEDED:
        few = f"n = {len(both)} rare captions with synthetic images of them and of a match, {_NEEDED} are needed"
        return facts.model_copy(update={"not_computed": few})
    scores = np.empty((len(both), 2))
    with bar("rare captions", len(scores)) as progress:
        for i, (own, common) in enumerate(both):
            num = min(len(drawn[own]), len(drawn[common]))
            chosen = _some(real, train[common], len(train[own]), derive_seed(seed, *own))
            scores[i] = [
                _best(synthetic, drawn[caption][:num], real, images)
                for caption, images in ((own, train[own]), (common, chosen))
            ]
            progress.advance()
    means = {name: float(mean) for name, mean in zip(("rare", "common"), scores.mean(axis=0), strict=True)}
    extracted = None if pixels.threshold is None else int((scores[:, 0] > pixels.threshold.value).sum())
    difference = _mean(scores[:, 0] - scores[:, 1], seed)
    return facts.model_copy(update={**means, "extracted": extracted, "difference": difference})


def _by_caption(rows: pd.DataFrame) -> dict[tuple[int, str], np.ndarray]:
    """Places of images by caption, in the order of the rows, numbered from 0 as those of a `SearchedImages`."""
    groups = (group for _, group in rows.groupby(CAPTION))
    return {(int(group["labels"].iloc[0]), str(group["view"].iloc[0])): group.index.to_numpy() for group in groups}


def _some(real: SearchedImages, places: np.ndarray, num: int, seed: int) -> np.ndarray:
    rows = real.rows.iloc[places].assign(_place=places)
    return in_hash_order(rows, seed, "matched caption")["_place"].to_numpy()[:num]


def _best(synthetic: SearchedImages, draws: np.ndarray, real: SearchedImages, images: np.ndarray) -> float:
    """The best alignment of any of some synthetic images with any of some training images."""
    mine, theirs = (
        [relief(thumb) for thumb in seen.thumbnails.take(places)]
        for seen, places in ((synthetic, draws), (real, images))
    )
    return max(align(one, other).score for one in mine for other in theirs)


def _mean(values: np.ndarray, seed: int) -> Interval:
    """The mean with its 95 % percentile interval over resamples of the values."""
    draw = np.random.default_rng(derive_seed(seed, "rare captions"))
    means = values[draw.integers(len(values), size=(_NUM_RESAMPLES, len(values)))].mean(axis=1)
    return not_degenerate(percentiles(float(values.mean()), means), len(values), least=-1.0)
