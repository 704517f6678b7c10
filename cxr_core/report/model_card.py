"""The card of a model that is given away: what it learnt from, how, and what its run measured of its images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cxr_core
from cxr_core.boundary import FEWEST_PATIENTS
from cxr_core.evaluation.fidelity_results import Distance
from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import FILE, Metrics, read_metrics
from cxr_core.models.checkpoints import is_pggan
from cxr_core.models.training_data import TrainingData, read_training_data
from cxr_core.report.sweep_words import choice_words
from cxr_core.report.verdicts import copies_words, copying_alarm
from cxr_core.runs.run import Run
from cxr_core.shown import in_quotes, markdown, markdown_code, yaml_text

_HEADER = """\
---
pretty_name: {title}
license: other
{kind}
tags:
- chest-x-ray
- synthetic
---

# {name}

{words} Written by cxr-suite {version}.
"""

_STABLE_DIFFUSION = {
    "kind": "library_name: diffusers\npipeline_tag: text-to-image",
    "words": "A Stable Diffusion model of chest X-rays: prompts of findings and a view become 8-bit grey radiographs\n"
    "that are of no patient.",
}
_PGGAN = {
    "kind": "pipeline_tag: unconditional-image-generation",
    "words": "A PG-GAN of chest X-rays: random numbers become 8-bit grey radiographs that are of no patient. It hears\n"
    "no words; latents of real images with a finding (an invert stage) are how it is asked for one.",
}

_HOW = """\
## How to draw with it

```python
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{folder}", torch_dtype=torch.float32)
pipeline.scheduler = DPMSolverMultistepScheduler.from_pretrained("{folder}", subfolder="dpmsolver")
image = pipeline("frontal chest x-ray, PA view, effusion", num_inference_steps=20, guidance_scale=5.0).images[0]
```
"""

_LIMITS = """\
## Known limits

- Whether a finding is in an image was asked of a classifier, not of a reader; where no number stands above, of nobody.
- A model may repeat images that it was trained on. Whether it does is a number above, or it was not measured.
- Labels of ChestX-ray14 were mined from reports by a program; a model that learnt from them learnt their mistakes.
- Not for diagnosis, and its images are no substitute for real ones in testing a medical device.
"""


def card(checkpoint: Path, record: Mapping[str, Any], stage: Path | None, name: str) -> str:
    """The card as Markdown, under `name` where the model has no run.

    `record` is the model's `model.json`; `stage` its train stage where it has a run.
    """
    how = [] if is_pggan(checkpoint) else [_HOW.format(folder=in_quotes(name))]
    name = f"{record['run']['name']}, stage {stage.name}" if stage else name
    kind = _PGGAN if is_pggan(checkpoint) else _STABLE_DIFFUSION
    lines = [_HEADER.format(title=yaml_text(name), name=markdown(name), version=cxr_core.__version__, **kind)]
    lines += ["## What made it", ""]
    rounded = f", rounded to {markdown(record['dtype'])} from `{markdown_code(record['of_weights_sha256'])}`"
    is_same = record["weights_sha256"] == record["of_weights_sha256"]
    lines += [f"- weights: sha256 `{markdown_code(record['weights_sha256'])}`{'' if is_same else rounded}"]
    lines += _run(record)
    lines += ["", "## What it learnt from", "", *_learnt(read_training_data(checkpoint)), ""]
    lines += ["## What was measured of its images", "", *(_measured(stage) if stage else [_UNKNOWN]), ""]
    lines += [*how, _LIMITS]
    return "\n".join(lines)


_UNKNOWN = "Nothing that is known: the folder was in no run."


def _run(record: Mapping[str, Any]) -> Iterator[str]:
    if "run" not in record:
        return
    run = record["run"]
    config = markdown_code(run["config_sha256"])
    yield f"- run `{markdown_code(run['name'])}`, seed {_text(run['seed'])}, config sha256 `{config}`"
    for stage, about in record["losses"].items():
        known = {step: loss for step, loss in about["validation_loss"].items() if loss is not None}
        last = f", loss on held-out images {list(known.values())[-1]:.4g} at the end" if known else ""
        code = _text(", ".join(about["commits"]))
        yield f"- train stage `{markdown_code(stage)}`: {about['steps']:,} steps{last}; code {code}"


def _learnt(learnt: TrainingData | None) -> Iterator[str]:
    if learnt is None:
        yield "It does not say."
        return
    yield f"{markdown(learnt.words)}."
    yield from ("", "| finding | images | patients |", "|---|---|---|")
    seen = {name: one for name, one in learnt.findings.items() if one.images}
    yield from (f"| {markdown(name)} | {one.images:,} | {one.patients:,} |" for name, one in seen.items())
    if learnt.withheld:
        names = markdown(", ".join(learnt.withheld))
        yield f"\nNot told, since few patients have them or the others would tell: {names}."
    if never := [name for name in learnt.findings if name not in seen]:
        yield f"\nNo image had: {markdown(', '.join(never))}. Of these words it knows what its base knew."
    if learnt.base:
        yield f"\nThe weights that training started from had learnt from {markdown(learnt.base.words)}."


def _measured(stage: Path) -> list[str]:
    """A paragraph for each finished evaluation of the run whose images this stage's model drew."""
    run = Run.open(stage.parent)
    entries = {entry["name"]: entry for entry in run.config["stages"]}
    drew = {name for name, entry in entries.items() if stage.name in _named(entry["inputs"].get("model"))}
    found = []
    for name, entry in entries.items():
        path = run.root / name / FILE
        if entry["kind"] == "evaluate" and drew & set(_named(entry["inputs"]["synthetic"])) and path.is_file():
            told = numbers(read_metrics(run.root / name))
            found += [f"Evaluation `{markdown_code(name)}`:", "", *(f"- {markdown(line)}" for line in told), ""]
    return found or ["Nothing: no finished evaluation of its run looks at its images."]


def _named(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def numbers(metrics: Metrics) -> Iterator[str]:
    """What may be told of an evaluation, a line of plain text each, without counts of few patients."""
    yield f"of {metrics.synthetic.num_images:,} synthetic images"
    if fidelity := metrics.fidelity:
        extractor = fidelity.extractor  # a model's name is that of a folder of the user's
        by = extractor.name if extractor.kind == "judge" else f"a model of sha256 {extractor.digest[:12]}"
        seen = f"features of {by}, {fidelity.resize.to} px"
        for what, one in (("held-out patients", fidelity.beside_floor), ("the floor: real to real", fidelity.floor)):
            if one.not_computed or _is_of_few(one):  # why not is a count of patients
                yield f"to {what} ({seen}): not computed, or of fewer than {FEWEST_PATIENTS} patients"
                continue
            numbers = f"FID {_words(one.fid)}, KID {_words(one.kid)}"
            yield f"to {what} ({seen}, n = {one.a.effective:g} and {one.b.effective:g}): {numbers}"
        is_told = fidelity.alarm is not None and not any(map(_is_of_few, (fidelity.to_held_out, fidelity.to_train)))
        yield copying_alarm(fidelity) if is_told else "The copying alarm was not computed."
    if faithfulness := metrics.faithfulness:
        for each in faithfulness.findings:
            for contrast in each.synthetic:
                told = f"AUROC {_words(contrast.auroc)}" if contrast.auroc else "not told: the judge is not sure here"
                yield f"{each.finding} is there, by the judge, within {contrast.within}: {told}"
    if memorisation := metrics.memorisation:
        is_told = memorisation.pixels.share_above is not None
        yield f"copies of training images: {copies_words(memorisation) if is_told else 'it cannot be told.'}"
    if metrics.sweep:
        yield f"a sweep: {choice_words(metrics.sweep) if metrics.sweep.chosen else 'no point is recommended.'}"


def _is_of_few(distance: Distance) -> bool:
    return any(0 < (side.num_patients or 0) < FEWEST_PATIENTS for side in (distance.a, distance.b))


def _words(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _text(value: Any) -> str:
    return markdown(str(value))
