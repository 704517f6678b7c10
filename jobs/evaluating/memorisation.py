"""Memorisation: are synthetic images copies of training images? Shards of thumbnails; the search is one of the ends.

Its extraction is what takes time and is sharded; all of ChestX-ray14 is then searched for 2,000 images in seconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    import pandas as pd

    from cxr_core.data.dataset import Dataset

_PERSON = "person-00000"


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images whose thumbnails are made: at most, since which are of training is known once the splits are there."""
    asked = settings.memorisation
    if asked is None:
        return Estimate(0, 0, 0, 0)
    from cxr_core.evaluation.extraction import count_images
    from cxr_core.evaluation.memorisation.looked import BYTES_AN_IMAGE
    from cxr_core.evaluation.memorisation.settings import WIDTH

    sizes = [count_images(inputs[source]) for source in ("real", "synthetic")]
    num_shards = sum(-(-size // asked.shard_size) for size in sizes)
    note = f"memorisation: at most {sum(sizes)} images in {num_shards} shards, {sizes[1]} compared with all of training"
    person = asked.reidentification
    notes = [note] if person is None else [note, f"a siamese network of {person.steps} steps that tells patients apart"]
    num_shards += person is not None
    num_bytes = sum(sizes) * (BYTES_AN_IMAGE + (4 * WIDTH if person else 0))
    return Estimate(num_shards, num_shards, 3 * num_shards + 3, num_bytes, notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Slices of all training, held-out and synthetic images; and one that learns to tell patients apart."""
    asked = context.settings.memorisation
    if asked is None:
        return ()
    from cxr_core.evaluation.memorisation.looked import freeze_looks

    looks = freeze_looks(datasets, asked.shard_size, work)
    return [*looks, Shard(_PERSON, 0, 1)] if asked.reidentification else looks


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Thumbnails and spectra of one slice, or a network that tells patients apart and what it makes of all images."""
    from cxr_core.evaluation.memorisation.looked import look

    if shard.id == _PERSON:
        from cxr_core.evaluation.memorisation.siamese import tell_apart
        from cxr_core.training.engine import threads

        settings: EvaluateStage = context.settings
        assert settings.memorisation is not None
        assert settings.memorisation.reidentification is not None
        with threads(settings.threads):
            return tell_apart(datasets, context.plan_folder, settings.memorisation.reidentification, context.seed, work)
    return look(shard, datasets, context.plan_folder, work)


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Search, and draw the pairs that are most alike."""
    settings: EvaluateStage = context.settings
    if settings.memorisation is None:
        return {}
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.extraction import kinds_of, stored_features
    from cxr_core.evaluation.memorisation.looked import read_looks
    from cxr_core.evaluation.memorisation.measure import measure
    from cxr_core.evaluation.memorisation.pairs import draw_pairs

    listed, kinds = list(receipts.values()), kinds_of(settings)
    real, synthetic = (
        read_looks(context.folder, listed, source, stored_features(context.folder, listed, kinds, source))
        for source in ("real", "synthetic")
    )
    with threadpool_limits(settings.threads):
        result = measure(datasets["real"], real, synthetic, settings.memorisation, context.seed)
        persons = _persons(context, receipts, real.rows)
    picture = draw_pairs(result.pairs, datasets["real"], datasets["synthetic"], context.folder)
    return {"memorisation": result.model_copy(update={"picture": picture, "reidentification": persons})}


def _persons(context: Context, receipts: Mapping[str, Receipt], rows: "pd.DataFrame") -> Any:
    import numpy as np

    from cxr_core.evaluation.memorisation.persons import reidentify

    asked = context.settings.memorisation
    if asked.reidentification is None:
        return None
    real, synthetic = (np.load(receipts[_PERSON].path(context.folder, source)) for source in ("real", "synthetic"))
    return reidentify(rows, real, synthetic, asked.reidentification, asked.num_train, context.seed)
