"""The card of a Dataset, README.md: what is in it, what made it, what it must not be used for."""

from collections.abc import Iterator, Mapping
from typing import Any

import cxr_core
from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NO_FINDING
from cxr_core.generation.acceptance import acceptance_of
from cxr_core.generation.series import MadeSeries, made_series
from cxr_core.shown import markdown, markdown_code

LICENCES = {
    "chestxray14": "ChestX-ray14 is free to use with attribution to the NIH Clinical Center and a citation of Wang et "
    "al., CVPR 2017.",
    "phantom": "Procedural phantoms of cxr-suite: nobody else's.",
}
"""By the kind of the real Dataset's source."""

_LIMITS_OF_SYNTHETIC = (
    "Labels are what was asked for, not what a reader saw. The report of the run says how often a judge finds them.",
    "A model may repeat images that it was trained on. The report of the run compares with training patients.",
    "Not for diagnosis, and no substitute for real images in testing a medical device.",
)
_LIMIT_OF_NIH = (
    "Labels of ChestX-ray14 were mined from reports by a program, and who learns from them learns its mistakes."
)


def card(dataset: Dataset) -> str:
    """The card as Markdown, with the header that Hugging Face's hub reads."""
    return "\n".join([*_header(dataset), *_contents(dataset), *_made(dataset), *_limits(dataset), ""])


def _header(dataset: Dataset) -> list[str]:
    tags = ["chest-x-ray", "synthetic"] if dataset.info.synthetic else ["chest-x-ray"]
    kind = "Synthetic chest X-rays" if dataset.info.synthetic else "Chest X-rays"
    return [
        "---",
        f"pretty_name: {kind}",
        "license: other",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
        f"# {kind}",
        "",
        f"**{'Every image is synthetic: made by a model, of no patient.' if dataset.info.synthetic else INTERNAL}**",
        "",
    ]


def _contents(dataset: Dataset) -> Iterator[str]:
    rows, info = dataset.rows, dataset.info
    yield from (f"{info.num_images:,} images of {info.size} x {info.size} pixels, 8-bit grey.", "")
    yield from ("| finding | images | PA | AP |", "|---|---|---|---|")
    for name in (NO_FINDING, *dataset.findings.names):
        has = rows["labels"] == 0 if name == NO_FINDING else rows["labels"] & dataset.findings.bit(name) != 0
        if has.any():
            views = rows.loc[has, "view"]
            counts = (int(has.sum()), int((views == "PA").sum()), int((views == "AP").sum()))
            yield f"| {markdown(name)} | {' | '.join(f'{count:,}' for count in counts)} |"
    yield from (
        "",
        f"Labels are of {', '.join(map(markdown, dataset.findings.names))}; of no other finding do they say anything.",
        "",
    )


def _made(dataset: Dataset) -> Iterator[str]:
    about, info = dataset.info.about, dataset.info
    yield from (
        "## What made it",
        "",
        f"- cxr-suite {cxr_core.__version__}; digest of the Dataset `{markdown_code(info.digest)}`",
    )
    if not info.synthetic:
        yield from (f"- source: {_source(about['source'])}", "") if "source" in about else ("",)
        return
    for series in made_series(dataset):
        yield from _series(series)
    how = f"{_text(about['dtype'])}, {_text(about['batch_size'])} at once"
    yield f"- sampled in {how}; each image's seed is in the table"
    yield f"- prompts: {_spelt({name: value for name, value in about['prompts'].items() if name != 'tokenizer'})}"
    yield from gate_lines(about)
    yield from (f"- {_text(name)}: the model never saw an image with it" for name in about.get("unseen", ()))
    yield ""


def _series(series: MadeSeries) -> Iterator[str]:
    name = f"{markdown(series.name)}: " if series.name else ""
    learnt = series.training_data.public().words if series.training_data else "what is not known"
    yield f"- {name}{series.num_images:,} images asked for by {_spelt(series.request.model_dump())}"
    yield f"  - model (sha256 of its weights): `{markdown_code(series.model)}`, which learnt from {markdown(learnt)}"
    yield f"  - sampler: {markdown(series.words)}"


def gate_lines(about: Mapping[str, Any]) -> Iterator[str]:
    accepted = acceptance_of(about)
    if accepted is None:
        return
    yield (
        f"- gate (a classifier, sha256 `{markdown_code(str(about['gate']['sha256']))}`): the first draw of "
        f"{accepted.first:,} of {accepted.images:,} images passed, some draw of {accepted.passed:,}; of the others the "
        "best is here, and its `generation` says `passed: false`"
    )
    shares = [f"{markdown(name)} {one.passed:,} of {one.asked:,}" for name, one in accepted.findings.items()]
    yield f"- passed by finding: {', '.join(shares)}"
    reasons = [f"{markdown(kind)} {num:,}" for kind, num in accepted.reasons.items()]
    yield f"- rejected draws by reason: {', '.join(reasons) or 'none'}"


def _source(source: Mapping[str, Any]) -> str:
    """Its kind, and of phantoms which. Datasets of older versions hold paths too, which are nobody else's business."""
    names = ("kind", "images", "num_images", "seed", "size") if source["kind"] == "phantom" else ("kind",)
    return _spelt({name: source.get(name) for name in names})


def _spelt(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_text(name)}: {_text(value)}" for name, value in values.items() if value is not None)


def _text(value: Any) -> str:
    return markdown(str(value))


def _limits(dataset: Dataset) -> Iterator[str]:
    about, synthetic = dataset.info.about, dataset.info.synthetic
    source = about.get("source") if synthetic else about.get("source", {}).get("kind")
    yield from ("## Licence of what it was made from", "")
    yield from (LICENCES.get(str(source), "Images of other origin: ask who gave them to you."), "")
    limits = [*(_LIMITS_OF_SYNTHETIC if synthetic else ()), *([_LIMIT_OF_NIH] if source == "chestxray14" else [])]
    if limits:
        yield from ("## Known limits", "", *(f"- {limit}" for limit in limits))
