"""The generate job: a request becomes an exact list of images, the list becomes tar shards of a synthetic Dataset."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.captions import warning
from cxr_core.data.dataset import Dataset, committed_parts, committed_tars, write_index_of_parts
from cxr_core.data.duplicates import EqualPixels
from cxr_core.data.findings import Findings
from cxr_core.data.positions.split import BoxedSplit, together
from cxr_core.data.problems import problem, write_problems
from cxr_core.data.prompts import PromptWriter, check_lengths
from cxr_core.data.pseudonyms import write_names
from cxr_core.data.settings import PromptSettings
from cxr_core.errors import UserError
from cxr_core.generation.bank_folder import Bank
from cxr_core.generation.first_draws import write_index as write_first_draws
from cxr_core.generation.requests import (
    allocate,
    check_places,
    describe,
    exact_list,
    left_out,
    read_list,
    shards_of,
    write_list,
)
from cxr_core.generation.series import MadeSeries, Series, all_series
from cxr_core.generation.settings import GenerateStage
from cxr_core.models.base import inspect_base
from cxr_core.models.checkpoints import (
    checkpoint_at,
    final_checkpoint,
    final_generator,
    is_pggan,
    kept_steps,
    weights_sha256,
)
from cxr_core.models.noise_schedule import FILE as SCHEDULE
from cxr_core.models.noise_schedule import read_schedule
from cxr_core.models.solver_options import solver_options
from cxr_core.models.training_data import TrainingData, read_training_data
from cxr_core.runs.files import canonical_json, read_json, sha256_text, write_json
from cxr_core.runs.plan import Shard
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.roles import in_roles
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.runs.tables import read_table
from cxr_core.settings import in_former_names, without_paths
from jobs.learnt import moved_for_judges

_BYTES_A_PIXEL = 0.5
"""Of a lossless grey PNG of a radiograph, with its caption: an image whose size is not known yet counts as 512 px."""
_FINDINGS = 14
"""That a vocabulary has where the real Dataset is not made yet: those of ChestX-ray14."""


def estimate(settings: GenerateStage, inputs: Mapping[str, Estimate | Path]) -> Estimate:
    """The size of the work, and the exact distribution of the images as soon as the real Dataset is there.

    Raises UserError where a model cannot be used.
    """
    like = inputs["like"]
    looked = _looked_at(inputs)
    series = all_series(settings, lambda role: _steps(inputs[role]))
    if isinstance(like, Path):
        real = Dataset.open(like).given_as("like")
        numbers, notes = _exactly(settings, series, inputs, real)
        num_bytes, num_like = sum(shard["bytes"] for shard in real.info.shards), real.info.num_images
    else:
        notes = ["the views follow from the real Dataset, which is not made yet"]
        numbers = [one.request.most(_FINDINGS) for one in series]
        num_bytes, num_like = like.num_bytes, like.num_items
        if any(one.request.fill for one in series):
            notes.append("at most: what there is of each finding follows from the real Dataset too")
    notes += looked
    if settings.gate:
        notes.append(f"a gate: images that do not pass are drawn again, {settings.gate.max_draws} times at most in all")
    if len(series) > 1:
        notes.append(f"{len(series)} series: {', '.join(one.name for one in series)}")
    num_images, num_shards = sum(numbers), sum(-(-num // settings.shard_size) for num in numbers)
    num_files = (6 if settings.gate else 3) * num_shards + 7 + 5 * bool(settings.gate)
    each = num_bytes / num_like if num_like else _BYTES_A_PIXEL * 512 * 512
    return Estimate(num_images, num_shards, num_files, round(each * num_images), notes)


def _looked_at(inputs: Mapping[str, Estimate | Path]) -> list[str]:
    """A line for each Stable Diffusion that is there already."""
    folders = [final_generator(path) for path in in_roles(inputs, "model") if isinstance(path, Path)]
    return [inspect_base(folder).words for folder in folders if not is_pggan(folder)]


def _steps(model: Estimate | Path) -> Sequence[int]:
    """Steps of the checkpoints that a model keeps; of one that is not trained yet, as many as it makes at most."""
    return range(1, model.num_shards + 1) if isinstance(model, Estimate) else kept_steps(model)


def _exactly(
    settings: GenerateStage, series: Sequence[Series], inputs: Mapping[str, Estimate | Path], real: Dataset
) -> tuple[list[int], list[str]]:
    """Images of each series, and for people the distribution of each."""
    numbers: list[int] = []
    notes: list[str] = []
    for one in series:
        cells = allocate(one.request, real.rows, real.findings, where=_where(settings, one))
        said = describe(cells, real.findings)
        passed_over = left_out(one.request, real.rows, real.findings)
        said += [f"0 {name}: no real training image has it to be filled up" for name in passed_over]
        if isinstance(model := inputs[one.role], Path):
            folder = checkpoint_at(model, one.checkpoint)
            if not is_pggan(folder):
                _options(settings, one, folder)
            said += [_UNHEARD] if is_pggan(folder) and "bank" not in inputs else []
            said += _warnings(_unseen(read_training_data(folder), cells, real.findings))
        said += warning(real.rows[real.rows["split"] == "train"], real.findings, cells)
        numbers.append(int(cells["num_images"].sum()))
        if settings.sweep is None or not notes:  # the series of a sweep differ in their models and samplers alone
            notes += [f"{one.name}: {line}" if settings.requests else line for line in said]
    return numbers, notes


def freeze(context: Context, work: Path) -> Draft:
    """Write requests.parquet (a row an image), model.json (what every shard needs to know) and a gate's bounds."""
    settings: GenerateStage = context.settings
    real = Dataset.open(context.inputs["like"]).given_as("like")
    prompts = _prompt_settings(real)
    writer = PromptWriter(prompts, real.findings)
    series = all_series(settings, lambda role: kept_steps(context.inputs[role]))
    cells = [allocate(one.request, real.rows, real.findings, where=_where(settings, one)) for one in series]
    for one, table in zip(series, cells, strict=True):
        check_places(table, prompts, where=_where(settings, one))
    _check_formats(context, series)
    made = _made(context, series, [int(table["num_images"].sum()) for table in cells])
    if "bank" in context.inputs:
        _check_bank(context, made, cells, real.findings)
    write_list(work / "requests.parquet", _lists(context, made, cells, writer), settings.shard_size)
    unseen = [_unseen(one.training_data, table, real.findings) for one, table in zip(made, cells, strict=True)]
    facts = {
        "findings": real.findings.names,
        "prompts": without_paths(prompts),
        "like": real.info.digest,
        "source": real.info.about.get("source", {}).get("kind"),
        "series": [one.model_dump(mode="json") for one in made],
        "unseen": list(dict.fromkeys(chain.from_iterable(unseen))),
        "num_images": sum(one.num_images for one in made),
        "generation": _generation(settings),
    }
    write_json(work / "model.json", facts)
    if settings.gate:
        from cxr_core.generation.gate import calibrate
        from cxr_core.generation.originals import FILE, Originals, measure_originals

        np.save(work / FILE, spectra := measure_originals(real, settings.threads))
        rule = calibrate(_judge(context), real, Originals(real, spectra), settings.gate, settings.threads)
        write_json(work / _RULE, rule.model_dump(mode="json"))
    return Draft(shards_of([one.num_images for one in made], settings.shard_size))


def _ways(context: Context, series: Series, folder: Path) -> dict[str, Any]:
    """What a series says of its model's kind, of its solver, and of the latents that it draws from."""
    if not is_pggan(folder):
        prediction, solver = inspect_base(folder).prediction, _options(context.settings, series, folder)
        return {"kind": "stable-diffusion", "prediction": prediction, "solver": solver}
    bank = context.inputs.get("bank")
    return {"kind": "pggan", "bank": Bank.open(bank).digest if bank else None, "from_bank": context.settings.from_bank}


def _options(settings: GenerateStage, series: Series, folder: Path) -> dict[str, Any]:
    """All that the solver is told. Raises UserError where the model does not go with it."""
    schedule = read_schedule(folder)
    if series.scheduler == "dpmsolver++" and schedule.rescale_betas_zero_snr and schedule.prediction_type == "epsilon":
        raise UserError(
            "dpmsolver++ begins at noise alone (rescale_betas_zero_snr), from which no prediction of epsilon leads on",
            where=str(folder / SCHEDULE),
            hint="set rescale_betas_zero_snr to false if it is left over, prediction_type to v_prediction if the model "
            "predicts that, or draw with scheduler: ddim",
        )
    return solver_options(series.scheduler, schedule, series.steps, where=_where(settings, series))


def _check_bank(
    context: Context, series: Sequence[MadeSeries], cells: Sequence[pd.DataFrame], findings: Findings
) -> None:
    """Raise UserError where the bank is of another model, or lacks labels that are asked for."""
    where = f"stage {context.settings.name!r}, inputs.bank"
    if all(one.kind != "pggan" for one in series):
        raise UserError("no PG-GAN draws from it", where=where, hint="remove it, or name a PG-GAN in inputs.model")
    bank = Bank.open(context.inputs["bank"])
    for one, table in zip(series, cells, strict=True):
        if one.kind != "pggan":
            continue
        if one.model != bank.model:
            raise UserError("its latents are of another PG-GAN", where=where, hint="give both stages the same model")
        lacking = sorted(set(table["labels"]) - set(bank.rows["labels"]))
        if lacking:
            names = ", ".join("|".join(findings.decode(labels)) for labels in lacking[:10])
            raise UserError(f"it has no latents of {names}", where=where, hint="add it to findings of the invert stage")


def _check_formats(context: Context, series: Sequence[Series]) -> None:
    settings: GenerateStage = context.settings
    if settings.dtype != "float32" and any(is_pggan(_checkpoint(context, one)) for one in series):
        raise UserError(
            f"a PG-GAN draws in float32, not in {settings.dtype}",
            where=f"stage {settings.name!r}",
            hint="set dtype: float32, in a stage of its own if other models are to draw in half precision",
        )


def _made(context: Context, series: Sequence[Series], numbers: Sequence[int]) -> list[MadeSeries]:
    """All series with their models' weights, each of which is read once."""
    folders = [_checkpoint(context, one) for one in series]
    digests = {folder: weights_sha256(folder) for folder in dict.fromkeys(folders)}
    return [
        MadeSeries(
            **dict(one),
            **_ways(context, one, folder),
            noise=context.settings.noise,
            model=digests[folder],
            training_data=read_training_data(folder),
            also_learnt_from=_also_learnt_from(context, folder),
            num_images=num,
        )
        for one, folder, num in zip(series, folders, numbers, strict=True)
    ]


def _also_learnt_from(context: Context, folder: Path) -> BoxedSplit | None:
    """Moved test patients from whom the gate learnt, or whose images are in the bank that a PG-GAN draws from."""
    gate = moved_for_judges({role: path for role, path in context.inputs.items() if role == "gate"})
    bank = Bank.open(context.inputs["bank"]).boxed_split if "bank" in context.inputs and is_pggan(folder) else None
    return together([*([gate] if gate else []), *([BoxedSplit.model_validate(bank)] if bank else [])])


def _checkpoint(context: Context, series: Series) -> Path:
    return checkpoint_at(context.inputs[series.role], series.checkpoint)


def _lists(
    context: Context, series: Sequence[MadeSeries], cells: Sequence[pd.DataFrame], writer: PromptWriter
) -> Iterator[pa.Table]:
    """The exact list of each series. Raises UserError where a prompt is too long for a model."""
    first = 0
    for one, table in zip(series, cells, strict=True):
        images = exact_list(table, writer, context.seed, first=first, series=one.name)
        if one.kind != "pggan":
            check_lengths(_first_of_each(images), _checkpoint(context, one) / "tokenizer")
        first += len(images)
        yield images


def run_shard(context: Context, shard: Shard, work: Path) -> Output:
    """Sample the shard's images and write them as a tar with its rows."""
    from cxr_core.generation.shard import generate_shard

    settings: GenerateStage = context.settings
    images = read_list(context.plan_folder / "requests.parquet", shard)
    facts = read_json(context.plan_folder / "model.json")
    gatekeeper = None
    if settings.gate:
        from cxr_core.generation.gate import open_gate
        from cxr_core.generation.originals import open_originals

        originals = open_originals(context.inputs["like"], context.plan_folder)
        gatekeeper = open_gate(_judge(context), _rule(context), Findings(tuple(facts["findings"])), originals)
    name = images["request"][0].as_py()
    series = next(one for one in map(MadeSeries.model_validate, facts["series"]) if one.name == name)
    checkpoint = _checkpoint(context, series)
    return generate_shard(
        settings,
        series,
        checkpoint,
        images,
        facts,
        work,
        seed=context.seed,
        gatekeeper=gatekeeper,
        bank=context.inputs.get("bank"),
    )


def finalize(context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
    """Write the synthetic Dataset's index and problems.csv; in the memory of some shards, however many there are."""
    facts = read_json(context.plan_folder / "model.json")
    findings = Findings(tuple(facts["findings"]))
    series = [MadeSeries.model_validate(one) for one in facts["series"]]
    write_names(context.folder, (name for one in series for split in one.boxed_splits for name in split.moved))
    about = {
        "series": [one.unnamed().model_dump(mode="json") for one in series],
        **{name: facts[name] for name in ("prompts", "like", "source", "unseen")},
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
        size=int(read_table(receipts[0].path(context.folder, "rows"), columns=["width"])["width"][0].as_py()),
        synthetic=True,
        about=about,
    )
    if context.settings.gate:
        write_first_draws(context.folder, receipts, findings=findings, size=info.size, about=about)
    problems = chain(
        (row for receipt in receipts for row in receipt.problems),
        (problem("unheard", "", "", text, "drawn all the same") for text in _unheard(facts["series"])),
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
    looks = (read_table(receipt.path(context.folder, "gate")) for receipt in receipts)
    accepted = tally(looks, rule.findings, findings)
    return {**rule.model_dump(mode="json"), "acceptance": accepted.model_dump(mode="json")}


def _again(folder: Path, equal: EqualPixels) -> Iterator[dict[str, str]]:
    """Problems of images with the pixels of another, in whatever shard."""
    places = equal.again()
    if len(places):
        ids = read_table(folder / "index.parquet", columns=["image_id"])["image_id"]
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


_UNHEARD = "a PG-GAN hears no words: labels say what was asked for, not what is drawn"


def _unheard(series: Sequence[Mapping[str, Any]]) -> list[str]:
    """What has to be said of the series whose model hears no words."""
    without_prompts = [
        one.name for one in map(MadeSeries.model_validate, series) if one.kind == "pggan" and not one.bank
    ]
    return [f"series {name!r}: {_UNHEARD}" if name else _UNHEARD for name in without_prompts]


def _warnings(unseen: Sequence[str]) -> list[str]:
    return [f"{name} is a word that the model never saw: no image that it learnt from has it" for name in unseen]


def _generation(settings: GenerateStage) -> dict[str, Any]:
    """What every image records of how it was made, beside its series' model and sampler."""
    names = ("dtype", "channels_last", "compile", "attention", "batch_size", "threads")
    config = sha256_text(canonical_json(in_former_names(settings, settings.model_dump(mode="json"))))
    return {**{name: getattr(settings, name) for name in names}, "config": config}


def _prompt_settings(real: Dataset) -> PromptSettings:
    if "prompts" not in real.info.about:
        raise UserError(
            "the Dataset does not say how its prompts were written",
            where=str(real.folder / "dataset.json"),
            hint="make it with a preprocess stage, so that the model is asked in the words it was trained with",
        )
    return PromptSettings.model_validate(real.info.about["prompts"])


def _sum(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Where the time went: seconds of all shards by part of the work."""
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(receipt.seconds)
    return {name: round(value, 3) for name, value in total.items()}


def _where(settings: GenerateStage, series: Series) -> str:
    named = f" {series.name!r}" if settings.requests else ""
    return f"stage {settings.name!r}, request{named}"
