"""Memorisation: are synthetic images copies of training images? Shards of thumbnails, then shards that search.

A search needs what other shards of the stage make of the training images. It reads what is committed, and makes for
itself, through the run's cache, what is not: so no shard waits for another, and where they run one after the other
nothing is made twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.evaluation.purpose import EXTRACTORS, PERSON, SEARCH, Purpose, purpose_of, shard_for
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.roles import in_roles
from cxr_core.runs.stage import Context, Estimate, Output
from jobs.evaluating import features

if TYPE_CHECKING:
    import pandas as pd

    from cxr_core.data.dataset import Dataset
    from cxr_core.evaluation.memorisation.results import MemorisationResult
    from cxr_core.evaluation.memorisation.settings import Memorisation

_PERSON = "person-00000"


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """Images that are looked at and looked for: at most, since which are of training is known once splits are there."""
    asked = settings.memorisation
    if asked is None:
        return Estimate(0, 0, 0, 0)
    from cxr_core.evaluation.extraction import count_images
    from cxr_core.evaluation.memorisation import descriptors, searched
    from cxr_core.evaluation.memorisation.settings import WIDTH

    (num_real,) = map(count_images, in_roles(inputs, "real"))
    drawn = [count_images(given) for given in in_roles(inputs, "synthetic")]
    sizes = [num_real, *drawn]
    num_looks = sum(-(-size // asked.shard_size) for size in sizes)
    # Held-out images are looked for beside synthetic ones, then a sample of training, then planted copies.
    num_searches = sum(-(-size // asked.search_shard_size) for size in (*sizes, min(asked.num_train, num_real))) + 1
    notes = [
        f"memorisation: at most {sum(sizes)} images in {num_looks} shards; {sum(drawn)} compared with all of training, "
        f"and at most {num_real} real ones, in {num_searches} shards"
    ]
    person = asked.reidentification
    if person:
        notes.append(f"a siamese network of {person.steps} steps that tells patients apart")
    num_shards = num_looks + num_searches + (person is not None)
    each = descriptors.BYTES_AN_IMAGE + searched.BYTES_AN_IMAGE + (4 * WIDTH if person else 0)
    return Estimate(num_shards, num_shards, 3 * num_shards + 5, sum(sizes) * each, notes)


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Slices of all training, held-out and synthetic images; searches; and one that learns to tell patients apart."""
    asked = context.settings.memorisation
    if asked is None:
        return ()
    found = copy_shards(context, {source: dataset.rows for source, dataset in datasets.items()}, work)
    return [*found, shard_for(_PERSON, Purpose(PERSON))] if asked.reidentification else found


def copy_shards(context: Context, sources: Mapping[str, "pd.DataFrame"], work: Path) -> list[Shard]:
    """Shards that look at the rows of `real` and of each synthetic source, and shards that search."""
    from cxr_core.evaluation.memorisation.descriptors import freeze_descriptors
    from cxr_core.evaluation.memorisation.searched import freeze_searches

    settings: EvaluateStage = context.settings
    asked = _asked(settings)
    looks = freeze_descriptors(sources, settings.looks_at, asked.shard_size, work)
    synthetic = [source for source in sources if source != "real"]
    return [*looks, *freeze_searches(synthetic, settings.null_splits, asked, context.seed, work)]


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Thumbnails and spectra of one slice, a search for it, or a network that tells patients apart."""
    from cxr_core.evaluation.cache import FeatureCache
    from cxr_core.evaluation.memorisation.descriptors import describe_images

    kind = purpose_of(shard).kind
    if kind == SEARCH:
        return _search(context, shard, datasets, work)
    if kind == PERSON:
        return _person(context, datasets, work)
    return describe_images(shard, datasets, context.plan_folder, work, FeatureCache(context.cache_folder / "features"))


def _person(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.memorisation.siamese import tell_apart
    from cxr_core.training.engine import threads

    settings: EvaluateStage = context.settings
    asked = _asked(settings)
    assert asked.reidentification is not None
    with threads(settings.threads), threadpool_limits(settings.threads):
        return tell_apart(datasets, context.plan_folder, asked.reidentification, asked.num_train, context.seed, work)


def _search(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    from threadpoolctl import threadpool_limits

    from cxr_core.evaluation.memorisation.descriptors import descriptor_shards, read_descriptors
    from cxr_core.evaluation.memorisation.searched import needed, search
    from cxr_core.runs.run import StageFolder

    settings: EvaluateStage = context.settings
    plan = StageFolder(context.folder).plan()
    assert plan is not None
    wanted = needed(plan.shards, shard)
    files, computed = _files(context, wanted, datasets, work / "made")
    sources = [source for source in ("real", purpose_of(shard).source) if descriptor_shards(wanted, source)]
    seen = {source: read_descriptors(context.plan_folder, source, wanted, files) for source in sources}
    with threadpool_limits(settings.threads):
        found = search(shard, seen, datasets["real"], settings.null_splits, _asked(settings), context.seed, work)
    return replace(found, counts={**found.counts, **computed})


def _files(
    context: Context, wanted: Sequence[Shard], datasets: Mapping[str, "Dataset"], made: Path
) -> tuple[dict[str, Mapping[str, Path]], Counter[str]]:
    """Where the data of some shards lie, by role: committed, or made now under `made`.

    And of how many images an extractor's features were computed for that, by extractor and source.
    """
    from cxr_core.runs.run import StageFolder

    stage = StageFolder(context.folder)
    found: dict[str, Mapping[str, Path]] = {}
    computed: Counter[str] = Counter()
    for shard in wanted:
        if stage.is_done(shard.id):
            found[shard.id] = stage.receipt(shard.id).paths(context.folder)
            continue
        (made / shard.id).mkdir(parents=True)
        purpose = purpose_of(shard)
        make = features.run if purpose.kind in EXTRACTORS else run
        output = make(context, shard, datasets, made / shard.id)
        found[shard.id] = output.paths
        if num := output.counts.get("computed"):
            computed[f"{purpose.kind}-{purpose.source}"] += num
    return found, computed


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Say what the searches found, and draw the pairs that are most alike."""
    if context.settings.memorisation is None:
        return {}
    from cxr_core.evaluation.memorisation.descriptors import described_rows
    from cxr_core.evaluation.memorisation.pairs import draw_pairs

    (result,) = measure_copies(context, receipts, ["synthetic"])
    persons = _persons(context, receipts, described_rows(context.plan_folder, "real"))
    picture = draw_pairs(result.pairs, datasets["real"], datasets["synthetic"], context.folder)
    return {"memorisation": result.model_copy(update={"picture": picture, "reidentification": persons})}


def measure_copies(
    context: Context, receipts: Mapping[str, Receipt], sources: Sequence[str]
) -> list["MemorisationResult"]:
    """What the searches found of each synthetic source."""
    from cxr_core.evaluation.memorisation.descriptors import read_descriptors
    from cxr_core.evaluation.memorisation.measure import measure
    from cxr_core.evaluation.memorisation.searched import read_found
    from cxr_core.runs.run import StageFolder

    settings: EvaluateStage = context.settings
    plan = StageFolder(context.folder).plan()
    assert plan is not None
    files = {name: receipt.paths(context.folder) for name, receipt in receipts.items()}
    seen = {source: read_descriptors(context.plan_folder, source, plan.shards, files) for source in ("real", *sources)}
    found = read_found(plan.shards, files)
    given = (found, settings.null_splits, _asked(settings), context.seed)
    return [measure(seen["real"], seen[source], source, *given) for source in sources]


def _asked(settings: EvaluateStage) -> "Memorisation":
    assert settings.memorisation is not None
    return settings.memorisation


def _persons(context: Context, receipts: Mapping[str, Receipt], rows: "pd.DataFrame") -> Any:

    from cxr_core.evaluation.memorisation.persons import reidentify

    asked = _asked(context.settings)
    if asked.reidentification is None:
        return None
    from cxr_core.runs.tables import read_npy

    found = {role: read_npy(path) for role, path in receipts[_PERSON].paths(context.folder).items()}
    return reidentify(rows, found["vectors"], found, asked.reidentification, asked.num_train, context.seed)
