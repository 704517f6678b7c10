"""Latent banks: real images, and what the latents that were found for them draw."""

from collections.abc import Iterator

from cxr_core.report.blocks import Block, Gallery, Heading, Section, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.evaluation import png_of
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several

_METHODS = {
    "features": "the discriminator’s features of the image, as the 2023 study took them",
    "direct": "found by a search for the image itself",
}
_SHOWN = 3
"""Pictures of a bank: its first shards."""


def bank_section(run: RunView) -> Section:
    """Each invert stage with its error and pictures."""
    blocks: list[Block] = []
    for stage in run.of_kind("invert"):
        blocks += [Heading(f"Stage “{stage.name}”"), *(_bank(stage) if stage.is_done else [not_yet(stage)])]
    return Section("banks", "Latents of real images", blocks or [Text("This run has no latent bank.", "absent")])


def _bank(stage: StageView) -> Iterator[Block]:
    facts, findings = stage.facts or {}, [plain(name) for name in stage.settings["findings"]]
    yield Text(
        f"Latents of {several(facts['num_images'], 'real training image')} with {listed(findings)}, each "
        f"{_METHODS[facts['method']]}. What they draw differs from the images by a mean squared error of "
        f"{facts['mean_error']:.4f} (grey values in 0 to 1)."
    )
    paths = [path.relative_to(stage.folder.path) for path in stage.data("picture")][:_SHOWN]
    alt = "Real chest X-rays above, what their latents draw below."
    pictures = [png_of(stage.folder.path, str(path), alt) for path in paths]
    if pictures:
        shown = f"The first images of {count(len(pictures))} of {several(len(stage.receipts), 'shard')}"
        yield Gallery(pictures, f"{shown}: real images above, what their latents draw below.", wide=True)
