"""What the gate of each synthetic Dataset let pass, and how faithful its first draws were."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr_core.generation.acceptance import Acceptance, Accepted, acceptance_of
from cxr_core.report.blocks import Block, Column, FactList, Heading, Section, Table, Text
from cxr_core.report.datasets import not_yet
from cxr_core.report.read import RunView
from cxr_core.report.spell import count, listed, percent, plain, several


def gate_section(run: RunView) -> Section:
    """Acceptance per finding, in the gate's own eyes before and after it chose; the judge of the run says the rest."""
    blocks: list[Block] = []
    for stage in run.of_kind("generate"):
        if stage.settings.get("gate") is None:
            continue
        blocks.append(Heading(f"Stage “{stage.name}”"))
        blocks += gate_blocks(stage.dataset.info.about) if stage.dataset else [not_yet(stage)]
    return Section("gate", "Gate", blocks or [Text("No gate: every image is stored as it was drawn first.", "absent")])


def gate_blocks(about: Mapping[str, Any]) -> Iterator[Block]:
    accepted, gate = acceptance_of(about), about["gate"]
    assert accepted is not None
    left = accepted.images - accepted.passed
    yield Text(
        f"A classifier of its own ({gate['preset']}) looked at {several(accepted.draws, 'draw')} of "
        f"{several(accepted.images, 'image')}. The first draw of {percent(accepted.first, accepted.images)} passed, "
        f"some draw of {percent(accepted.passed, accepted.images)}; of the other {count(left)} the best draw is stored "
        "and marked. Each bound is what all but a small share of real validation images with the finding score."
    )
    yield _table(accepted, gate)
    bounds = gate["bounds"].items()
    refused = [f"{plain(name)} ({bound['refused']})" for name, bound in bounds if bound["refused"] is not None]
    reasons = [f"{plain(kind)} {count(num)}" for kind, num in accepted.reasons.items()]
    yield FactList(
        [
            ("rejected draws by reason", listed(reasons) or "none"),
            ("not gated", listed(refused) or "none of the classifier’s findings"),
            ("flat below", f"a standard deviation of {gate['min_spread']:.2f} of 255"),
            ("near-duplicate below", f"a distance of {gate['min_distance']:.4f} within its shard"),
            (
                "copy of a training image above",
                f"a correlation of {gate['max_alike']:.3f}, aligned; {count(gate['num_train'])} were looked at",
            ),
            ("real validation images for the bounds", count(gate["num_real"])),
        ]
    )


def _table(accepted: Acceptance, gate: Mapping[str, Any]) -> Table:
    heads = ("images", "first draw passed", "some draw passed", "draws an image", "bound")
    columns = [Column("finding"), *(Column(head, numeric=True) for head in heads)]
    columns += [Column("AUROC, first draws"), Column("AUROC, stored")]
    rows = [_row(name, one, gate["bounds"].get(name, {})) for name, one in accepted.findings.items()]
    notes = [
        "AUROC: of the gate’s score, between images asked for with the finding and without: before and after it chose. "
        "It chose by this score, so the second flatters. What a judge that did not choose says of the stored images "
        "stands under “Faithfulness”."
    ]
    return Table("What the gate let pass, by the finding that was asked for.", columns, rows, notes=notes)


def _row(name: str, one: Accepted, bound: Mapping[str, Any]) -> list[str]:
    score = bound.get("score")
    return [
        plain(name),
        count(one.asked),
        percent(one.first, one.asked),
        percent(one.passed, one.asked),
        f"{one.draws / one.asked:.2f}",
        "not gated" if score is None else f"{score:.2f}",
        *("–" if area is None else f"{area:.2f}" for area in (one.auroc_first, one.auroc_stored)),
    ]
