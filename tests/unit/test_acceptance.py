"""What a gate let pass, counted from its looks, and how report and card tell it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cxr_core.data.findings import NIH, NO_FINDING
from cxr_core.export.card import gate_lines
from cxr_core.generation.acceptance import tally
from cxr_core.generation.shard import LOOKS
from cxr_core.models.scores import auroc
from cxr_core.report.blocks import Table, Text
from cxr_core.report.gate import gate_blocks

EFFUSION = NIH.bit("Effusion")
KNOWN = ("Effusion", "Unheard of")


def look(image: str, labels: int, draw: int, stored: bool, score: float, *reasons: str) -> dict[str, Any]:
    told = {"image_id": image, "labels": labels, "draw": draw, "stored": stored}
    return {**told, "reasons": list(reasons), "scores": [score, 0.5]}


def shards() -> list[pa.Table]:
    """a passes at once, b at its second draw, c never (its first is the best), d without a finding at once."""
    first = [look("a", EFFUSION, 0, True, 0.9), look("b", EFFUSION, 0, False, 0.2, "finding_not_seen", "flat")]
    second = [look("b", EFFUSION, 1, True, 0.8), look("c", EFFUSION, 0, True, 0.4, "finding_not_seen")]
    third = [look("c", EFFUSION, 1, False, 0.1, "finding_not_seen"), look("d", 0, 0, True, 0.3)]
    return [pa.Table.from_pylist(first, schema=LOOKS), pa.Table.from_pylist(second + third, schema=LOOKS)]


def test_given_looks_of_several_shards_images_draws_and_reasons_are_counted() -> None:
    found = tally(shards(), KNOWN, NIH)
    assert (found.images, found.draws, found.first, found.passed) == (4, 6, 2, 3)
    assert found.reasons == {"finding_not_seen": 3, "flat": 1}
    assert list(found.findings) == ["Effusion", NO_FINDING]
    effusion = found.findings["Effusion"]
    assert (effusion.asked, effusion.first, effusion.passed, effusion.draws) == (3, 1, 2, 5)
    # First draws 0.9, 0.2, 0.4 against 0.3; stored ones 0.9, 0.8, 0.4.
    assert effusion.auroc_first == pytest.approx(2 / 3)
    assert effusion.auroc_stored == 1


def test_given_many_scores_auroc_from_counts_is_that_of_the_scores() -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 2000)
    scores = draw.beta(2 + labels, 3).astype(np.float32)
    looks = [
        look(f"{i}", EFFUSION * int(has), 0, True, score)
        for i, (has, score) in enumerate(zip(labels, scores, strict=True))
    ]
    found = tally([pa.Table.from_pylist(looks, schema=LOOKS)], KNOWN, NIH).findings["Effusion"]
    assert found.auroc_first == pytest.approx(float(auroc(scores, labels, np.ones(2000))), abs=1e-3)


def about() -> dict[str, Any]:
    bound = {"num_with": 30, "num_without": 90, "auroc": 0.9, "score": 0.61, "refused": None}
    bounds = {"Effusion": bound, NO_FINDING: bound | {"score": None, "refused": "told with AUROC 0.60, below 0.70"}}
    told = {"sha256": "f" * 64, "preset": "small", "min_spread": 20.0, "min_distance": 0.1, "num_real": 120}
    told |= {"max_alike": 0.98, "num_train": 700}
    accepted = tally(shards(), KNOWN, NIH).model_dump(mode="json")
    return {"gate": {**told, "bounds": bounds, "acceptance": accepted}}


def test_given_a_gate_the_report_says_what_passed_of_each_finding_and_what_is_not_gated() -> None:
    blocks = list(gate_blocks(about()))
    (text,) = (block.text for block in blocks if isinstance(block, Text))
    assert "looked at 6 draws of 4 images" in text
    assert "the other 1 the best draw is stored" in text
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert list(table.rows[0]) == ["Effusion", "3", "33.3 %", "66.7 %", "1.67", "0.61", "0.67", "1.00"]
    assert list(table.rows[1])[5:] == ["not gated", "–", "–"]
    assert "told with AUROC 0.60, below 0.70" in str(blocks[-1])


def test_given_a_gate_the_card_says_it_and_without_one_it_is_silent() -> None:
    text = "\n".join(gate_lines(about()))
    assert "the first draw of 2 of 4 images passed, some draw of 3" in text
    assert "passed by finding: Effusion 2 of 3, No Finding 1 of 1" in text
    assert "finding_not_seen 3, flat 1" in text
    assert list(gate_lines({})) == []
