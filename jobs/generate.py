"""The generate job: a request becomes an exact list of images, the list becomes tar shards of a synthetic Dataset."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.dataset import Dataset, committed_parts, committed_tars, write_index_of_parts
from cxr_core.data.duplicates import EqualPixels
from cxr_core.data.findings import Findings
from cxr_core.data.problems import problem, write_problems
from cxr_core.data.prompts import PromptWriter, check_lengths
from cxr_core.data.settings import PromptSettings
from cxr_core.errors import UserError
from cxr_core.generation.requests import allocate, describe, exact_list, left_out, read_list, write_list
from cxr_core.generation.settings import GenerateStage
from cxr_core.models.checkpoints import final_checkpoint, weights_sha256
from cxr_core.models.training_data import TrainingData, read_training_data
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.stage import Context, Draft, Estimate, Output

_BYTES_A_PIXEL = 0.5
"""Of a lossless grey PNG of a radiograph, with its caption: an image whose size is not known yet counts as 512 px."""
_FINDINGS = 14
"""That a vocabulary has where the real Dataset is not made yet: those of ChestX-ray14."""


def estimate(settings: GenerateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """The size of the work, and the exact distribution of the images as soon as the real Dataset is there."""
    like, model = inputs["like"], inputs["model"]
    if isinstance(like, Path):
        real = Dataset.open(like)
        cells = allocate(settings.request, real.rows, real.findings, where=_where(settings))
        passed_over = left_out(settings.request, real.rows, real.findings)
        notes = [
            *describe(cells, real.findings),
            *(f"0 {name}: no real training image has it to be filled up" for name in passed_over),
        ]
        if isinstance(model, Path):
            notes += _warnings(_unseen(read_training_data(final_checkpoint(model)), cells, real.findings))
        num_images = int(cells["num_images"].sum())
        num_bytes, num_like = sum(shard["bytes"] for shard in real.info.shards), real.info.num_images
    else:
        notes = ["the views follow from the real Dataset, which is not made yet"]
        num_images, num_bytes, num_like = settings.request.most(_FINDINGS), like.num_bytes, like.num_items
        if settings.request.fill:
            notes.append("at most: what there is of each finding follows from the real Dataset too")
    if settings.gate:
        notes.append(f"a gate: images that do not pass are drawn again, {settings.gate.max_draws} times at most in all")
    num_shards = -(-num_images // settings.shard_size)
    num_files = (4 if settings.gate else 3) * num_shards + 7 + bool(settings.gate)
    each = num_bytes / num_like if num_like else _BYTES_A_PIXEL * 512 * 512
    return Estimate(num_images, num_shards, num_files, round(each * num_images), notes)


def freeze(context: Context, work: Path) -> Draft:
    """Write requests.parquet (a row an image), model.json (what every shard needs to know) and a gate's bounds."""
    settings: GenerateStage = context.settings
    real = Dataset.open(context.inputs["like"])
    prompts = _prompt_settings(real)
    cells = allocate(settings.request, real.rows, real.findings, where=_where(settings))
    images = exact_list(cells, PromptWriter(prompts, real.findings), context.seed)
    checkpoint = final_checkpoint(context.inputs["model"])
    learnt = read_training_data(checkpoint)
    check_lengths(_first_of_each(images), checkpoint / "tokenizer")
    write_list(work / "requests.parquet", images, settings.shard_size)
    facts = {
        "findings": real.findings.names,
        "prompts": prompts.model_dump(mode="json"),
        "like": real.info.digest,
        "source": real.info.about.get("source", {}).get("kind"),
        "training_data": learnt.model_dump(mode="json") if learnt else None,
        "unseen": _unseen(learnt, cells, real.findings),
        "generation": _generation(settings, weights_sha256(checkpoint)),
    }
    write_json(work / "model.json", facts)
    if settings.gate:
        from cxr_core.generation.gate import calibrate

        rule = calibrate(_judge(context), real, settings.gate, settings.threads)
        write_json(work / _RULE, rule.model_dump(mode="json"))
    return Draft(slices(len(images), settings.shard_size))


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Sample the shard's images and write them as a tar with its rows."""
    from cxr_core.generation.shard import generate_shard

    settings: GenerateStage = context.settings
    images = read_list(context.plan_folder / "requests.parquet", shard.start // settings.shard_size)
    facts = read_json(context.plan_folder / "model.json")
    gatekeeper = None
    if settings.gate:
        from cxr_core.generation.gate import open_gate

        gatekeeper = open_gate(_judge(context), _rule(context), Findings(tuple(facts["findings"])))
    checkpoint = final_checkpoint(context.inputs["model"])
    return generate_shard(settings, checkpoint, images, facts, work, seed=context.seed, gatekeeper=gatekeeper)


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write the synthetic Dataset's index and problems.csv; in the memory of some shards, however many there are."""
    facts = read_json(context.plan_folder / "model.json")
    findings = Findings(tuple(facts["findings"]))
    about = {
        "request": context.settings.request.model_dump(mode="json", exclude_none=True),
        **{name: facts[name] for name in ("prompts", "like", "source", "training_data", "unseen")},
        "seed": context.seed,
        **facts["generation"],
        "smallest_batch": min(receipt.counts["smallest_batch"] for receipt in receipts),
    }
    if context.settings.gate:
        about["gate"] = _gate(context, receipts, findings)
    equal = EqualPixels()
    info = write_index_of_parts(
        context.folder,
        equal.watch(committed_parts(context.folder, receipts)),
        committed_tars(context.folder, receipts),
        findings=findings,
        size=int(pq.read_table(receipts[0].path(context.folder, "rows"), columns=["width"])["width"][0].as_py()),
        synthetic=True,
        about=about,
    )
    problems = chain(
        (row for receipt in receipts for row in receipt.problems),
        (problem("unseen_finding", "", "", text, "drawn all the same") for text in _warnings(facts["unseen"])),
        _again(context.folder, equal),
    )
    num_problems = write_problems(context.folder / "problems.csv", problems)
    accepted = {"gate": about["gate"]["acceptance"]} if context.settings.gate else {}
    numbers = {"num_images": info.num_images, "problems": num_problems, "parts": _sum(receipts)}
    return {"digest": info.digest, **numbers, **accepted}


_RULE = "gate.json"


def _judge(context: Context) -> Path:
    """The folder of the gate's classifier."""
    return final_checkpoint(context.inputs["gate"], "classifier")


def _rule(context: Context) -> Any:
    from cxr_core.generation.gate import Rule

    return Rule.model_validate(read_json(context.plan_folder / _RULE))


def _gate(context: Context, receipts: Sequence[Receipt], findings: Findings) -> dict[str, Any]:
    """What the Dataset says of its gate: its bounds, and what it let pass."""
    from cxr_core.generation.acceptance import tally

    rule = _rule(context)
    looks = (pq.read_table(receipt.path(context.folder, "gate")) for receipt in receipts)
    accepted = tally(looks, rule.findings, findings)
    return {**rule.model_dump(mode="json"), "acceptance": accepted.model_dump(mode="json")}


def _again(folder: Path, equal: EqualPixels) -> Iterator[dict[str, str]]:
    """Problems of images with the pixels of another, in whatever shard."""
    places = equal.again()
    if len(places):
        ids = pq.read_table(folder / "index.parquet", columns=["image_id"])["image_id"]
        for image_id in ids.take(places).to_pylist():
            yield problem("duplicate_pixels", image_id, "", "the same pixels as an image before it", "kept")


def _first_of_each(images: pa.Table) -> dict[str, str]:
    """Each distinct prompt with an image that has it."""
    prompts = images["prompt"].combine_chunks()
    codes, first = np.unique(prompts.indices.to_numpy(), return_index=True)
    texts = prompts.dictionary.take(pa.array(codes)).to_pylist()
    return dict(zip(texts, images["image_id"].take(first).to_pylist(), strict=True))


def _unseen(learnt: TrainingData | None, cells: pd.DataFrame, findings: Findings) -> list[str]:
    """Findings that are asked for and that no image had which the model learnt from, as far as it says so."""
    asked = int(np.bitwise_or.reduce(cells["labels"].to_numpy(), initial=0))
    names = findings.decode(asked) if asked and learnt else ()
    seen = {name: learnt.of_finding(name) for name in names} if learnt else {}
    return [name for name, parts in seen.items() if parts is not None and not sum(part.images for part in parts)]


def _warnings(unseen: Sequence[str]) -> list[str]:
    return [f"{name} is a word that the model never saw: no image that it learnt from has it" for name in unseen]


def _generation(settings: GenerateStage, model: str) -> dict[str, Any]:
    """What every image records of how it was made."""
    names = ("scheduler", "steps", "guidance", "dtype", "channels_last", "compile", "batch_size", "threads")
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
