"""The generate job: a request becomes an exact list of images, the list becomes tar shards of a synthetic Dataset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.data.dataset import Dataset, committed_rows, committed_tars, write_index
from cxr_core.data.findings import Findings
from cxr_core.data.problems import write_problems
from cxr_core.data.prompts import PromptWriter, check_lengths
from cxr_core.data.settings import PromptSettings
from cxr_core.errors import UserError
from cxr_core.generation.requests import allocate, describe, exact_list, read_list, write_list
from cxr_core.generation.settings import GenerateStage
from cxr_core.models.checkpoints import final_checkpoint, weights_sha256
from cxr_core.models.training_data import read_training_data
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output

_BYTES_A_PIXEL = 0.5
"""Of a lossless grey PNG of a radiograph, with its caption: an image whose size is not known yet counts as 512 px."""


def estimate(settings: GenerateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """The size of the work, and the exact distribution of the images as soon as the real Dataset is there."""
    num_images = settings.request.total
    like = inputs["like"]
    if isinstance(like, Path):
        real = Dataset.open(like)
        notes = describe(allocate(settings.request, real.rows, real.findings, where=_where(settings)), real.findings)
        num_bytes, num_like = sum(shard["bytes"] for shard in real.info.shards), real.info.num_images
    else:
        notes = ["the views follow from the real Dataset, which is not made yet"]
        num_bytes, num_like = like.num_bytes, like.num_items
    num_shards = -(-num_images // settings.shard_size)
    each = num_bytes / num_like if num_like else _BYTES_A_PIXEL * 512 * 512
    return Estimate(num_images, num_shards, 3 * num_shards + 7, round(each * num_images), notes)


def freeze(context: Context, work: Path) -> Draft:
    """Write requests.parquet (a row an image) and model.json (what every shard needs to know)."""
    settings: GenerateStage = context.settings
    real = Dataset.open(context.inputs["like"])
    prompts = _prompt_settings(real)
    cells = allocate(settings.request, real.rows, real.findings, where=_where(settings))
    images = exact_list(cells, PromptWriter(prompts, real.findings), context.seed)
    checkpoint = final_checkpoint(context.inputs["model"])
    learnt = read_training_data(checkpoint)
    texts, ids = images["prompt"].to_pylist(), images["image_id"].to_pylist()
    check_lengths(dict(zip(texts, ids, strict=True)), checkpoint / "tokenizer")
    write_list(work / "requests.parquet", images, settings.shard_size)
    facts = {
        "findings": real.findings.names,
        "prompts": prompts.model_dump(mode="json"),
        "like": real.info.digest,
        "source": real.info.about.get("source", {}).get("kind"),
        "training_data": learnt.model_dump(mode="json") if learnt else None,
        "generation": _generation(settings, weights_sha256(checkpoint)),
    }
    write_json(work / "model.json", facts)
    return Draft(slices(len(images), settings.shard_size))


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Sample the shard's images and write them as a tar with its rows."""
    from cxr_core.generation.shard import generate_shard

    settings: GenerateStage = context.settings
    images = read_list(context.plan_folder / "requests.parquet", shard.start // settings.shard_size)
    facts = read_json(context.plan_folder / "model.json")
    return generate_shard(settings, final_checkpoint(context.inputs["model"]), images, facts, work)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write the synthetic Dataset's index and problems.csv."""
    facts = read_json(context.plan_folder / "model.json")
    rows = committed_rows(context.folder, receipts)
    info = write_index(
        context.folder,
        rows,
        committed_tars(context.folder, receipts),
        findings=Findings(tuple(facts["findings"])),
        size=int(rows["width"].iloc[0]),
        synthetic=True,
        about={
            "request": context.settings.request.model_dump(mode="json", exclude_none=True),
            "prompts": facts["prompts"],
            "like": facts["like"],
            "source": facts["source"],
            "training_data": facts["training_data"],
            **facts["generation"],
        },
    )
    num_problems = write_problems(context.folder / "problems.csv", [row for r in receipts for row in r.problems])
    return {"digest": info.digest, "num_images": info.num_images, "problems": num_problems, "parts": _sum(receipts)}


def _generation(settings: GenerateStage, model: str) -> dict[str, Any]:
    """What every image records of how it was made."""
    names = ("scheduler", "steps", "guidance", "dtype", "batch_size", "threads")
    config = sha256_text(canonical_json(settings.model_dump(mode="json")))
    return {**{name: getattr(settings, name) for name in names}, "model": model, "config": config}


def _prompt_settings(real: Dataset) -> PromptSettings:
    if "prompts" not in real.info.about:
        raise UserError(
            "the Dataset does not say how its prompts were written",
            where=str(real.folder / "dataset.json"),
            mend="make it with a preprocess stage, so that the model is asked in the words it was trained with",
        )
    return PromptSettings.model_validate(real.info.about["prompts"])


def _sum(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Where the time went: seconds of all shards by part of the work."""
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(receipt.seconds)
    return {name: round(value, 3) for name, value in total.items()}


def _where(settings: GenerateStage) -> str:
    return f"stage {settings.name!r}, request"
