"""Whether findings lie where they were asked for: shards of images that a localiser sees, and one of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.errors import UserError
from cxr_core.evaluation.purpose import (
    POSITION,
    POSITION_PICTURES,
    Purpose,
    purpose_of,
    shard_for,
    shards_for,
    slices_for,
)
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Estimate, Output

if TYPE_CHECKING:
    import pandas as pd

    from cxr_core.data.dataset import Dataset

_PICTURES = "position-pictures"
_BYTES_AN_IMAGE, _PICTURE_BYTES = 200, 300_000


def estimate(settings: EvaluateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """At most all images, a shard each of as many as extractors see; which have places is known when this is frozen."""
    if settings.position is None:
        return Estimate(0, 0, 0, 0)
    from cxr_core.evaluation.extraction import count_images

    sizes = [count_images(inputs[source]) for source in ("real", "synthetic")]
    num_shards = 1 + sum(-(-size // settings.extraction.shard_size) for size in sizes)
    notes = [f"positions: a localiser sees at most {sum(sizes)} images"]
    return Estimate(
        num_shards, num_shards, 2 * num_shards + 8, sum(sizes) * _BYTES_AN_IMAGE + 8 * _PICTURE_BYTES, notes
    )


def shards(context: Context, datasets: Mapping[str, "Dataset"], work: Path) -> Sequence[Shard]:
    """Which images the localiser sees, and what it is."""
    from cxr_core.models.localiser_folder import localiser_sha256, read_info
    from cxr_core.runs.files import write_json

    settings: EvaluateStage = context.settings
    if settings.position is None:
        return ()
    info, real = read_info(_localiser(context)), datasets["real"]
    if info.dataset != real.info.digest:
        raise UserError(
            "the localiser learnt from another Dataset than inputs.real: its patients may be those it is tried on",
            where=f"stage {settings.name!r}, inputs.localiser",
            hint="train the localiser on the Dataset that is inputs.real",
        )
    write_json(work / "localiser.json", {"format": 1, "sha256": localiser_sha256(_localiser(context))})
    found: list[Shard] = []
    for source in datasets:
        num = len(_seen(context, datasets, source))
        found += slices_for(num, settings.extraction.shard_size, Purpose(POSITION, source))
    return [*found, shard_for(_PICTURES, Purpose(POSITION_PICTURES))]


def run(context: Context, shard: Shard, datasets: Mapping[str, "Dataset"], work: Path) -> Output:
    """Find the findings of some images, or draw the pictures."""
    import pyarrow as pa

    from cxr_core.data.dataset import write_parquet
    from cxr_core.evaluation.position.locate import Finder
    from cxr_core.evaluation.position.pictures import draw
    from cxr_core.runs.files import canonical_json, sha256_text
    from cxr_core.training.engine import threads

    settings: EvaluateStage = context.settings
    assert settings.position is not None
    with threads(settings.threads):
        finder = Finder(_localiser(context))
        purpose = purpose_of(shard)
        if purpose.kind == POSITION_PICTURES:
            return draw(finder, settings.position, datasets["real"], datasets["synthetic"], context.seed, work)
        source = purpose.source
        rows = _seen(context, datasets, source).iloc[shard.start : shard.stop]
        boxes = finder.boxes(datasets[source], rows, settings.extraction.batch_size)
    write_parquet(work / "found.parquet", pa.Table.from_pandas(boxes, preserve_index=False))
    digest = sha256_text(canonical_json(boxes.to_dict("records")))
    return Output({"found": work / "found.parquet"}, digest, {"images": len(rows)})


def measure(
    context: Context, receipts: Mapping[str, Receipt], datasets: Mapping[str, "Dataset"], found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Where the findings lie, beside where they were asked for."""
    settings: EvaluateStage = context.settings
    if settings.position is None:
        return {}
    from cxr_core.evaluation.position.measure import judge_positions
    from cxr_core.evaluation.position.pictures import committed
    from cxr_core.evaluation.position.results import PositionResult
    from cxr_core.models.localiser_folder import read_info
    from cxr_core.runs.files import read_json

    info, real = read_info(_localiser(context)), datasets["real"]
    rows = {source: _seen(context, datasets, source) for source in datasets}
    boxes = {source: _found(context, receipts, source) for source in datasets}
    asked_for = rows["synthetic"]["prompt"].unique().tolist()
    pictures = read_json(receipts[_PICTURES].path(context.folder, "list"))["pictures"]
    return {
        "position": PositionResult(
            localiser=read_json(context.plan_folder / "localiser.json")["sha256"],
            learnt_from=_words(info.about, info.dataset),
            split=settings.position.split,
            findings=judge_positions(
                rows["real"],
                real.info.size,
                rows["synthetic"],
                boxes,
                info,
                real.findings,
                settings.position,
                context.seed,
            ),
            unknown_to_localiser=_unknown(asked_for, real.findings.names, info.findings),
            pictures=committed(pictures, receipts[_PICTURES]),
        )
    }


def _words(about: Mapping[str, Any], dataset: str) -> str:
    return f"{about['num_images']:,} images with a box of {about['num_patients']:,} patients (Dataset {dataset[:16]})"


def _unknown(prompts: Sequence[str], findings: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    from cxr_core.data.positions.phrases import parse

    placed = {one.finding for prompt in prompts for one in parse(prompt, findings) if one.region}
    return tuple(sorted(placed - set(known)))


def _localiser(context: Context) -> Path:
    from cxr_core.models.checkpoints import final_checkpoint

    return final_checkpoint(context.inputs["localiser"], "localiser")


def _seen(context: Context, datasets: Mapping[str, "Dataset"], source: str) -> "pd.DataFrame":
    """Held-out real images with a box, or synthetic ones whose prompt says a place; by image id."""
    from cxr_core.data.positions.phrases import unplaced

    dataset = datasets[source]
    if source == "real":
        rows = dataset.of_split(context.settings.position.split)
        return rows[rows["boxes"].map(len) > 0].sort_values("image_id", ignore_index=True)
    plain = {text: unplaced(text, dataset.findings.names) for text in dataset.rows["prompt"].unique()}
    says = dataset.rows["prompt"] != dataset.rows["prompt"].map(plain)
    return dataset.rows[says].sort_values("image_id", ignore_index=True)


def _found(context: Context, receipts: Mapping[str, Receipt], source: str) -> "pd.DataFrame":
    import pandas as pd

    from cxr_core.runs.run import StageFolder
    from cxr_core.runs.tables import read_table

    plan = StageFolder(context.folder).plan()
    mine = shards_for(plan.shards if plan else (), [POSITION], source)
    parts = [read_table(receipts[shard.id].path(context.folder, "found")).to_pandas() for shard in mine]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"image_id": [], "finding": []})
