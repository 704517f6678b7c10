"""Where a finding is, in words and back: the grammar of places, over all boxes of ChestX-ray14."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_core.data.boxfile import read_boxes
from cxr_core.data.findings import NIH, NIH_FINDINGS
from cxr_core.data.nih_files import BBOX_LIST
from cxr_core.data.positions.phrases import PlacedFinding, parse, phrase, place, region_words, unplaced
from cxr_core.data.positions.regions import GRID, ZONES, cell_of, middle, unit_boxes
from cxr_core.data.positions.settings import PositionWords
from cxr_core.data.prompts import MAX_TOKENS, PromptWriter, estimate_tokens, token_counter
from cxr_core.data.settings import BoxFile, PromptSettings
from cxr_core.models.checkpoints import BUILT_IN

WORDS = [
    PositionWords(regions=regions, sides=sides, sizes=sizes)
    for regions in ("grid", "zones")
    for sides in ("patient", "image")
    for sizes in (False, True)
]


@st.composite
def boxes(draw: st.DrawFn) -> list[dict]:
    """One to six boxes inside the image, in fractions of it."""
    corner, extent = st.floats(0, 0.98), st.floats(0.01, 1)
    made = []
    for finding in draw(st.lists(st.sampled_from(NIH_FINDINGS), min_size=1, max_size=6)):
        x, y, w, h = (draw(values) for values in (corner, corner, extent, extent))
        made.append({"finding": finding, "x": x, "y": y, "w": min(w, 1 - x), "h": min(h, 1 - y)})
    return made


def box(x: float, y: float, w: float = 0.1, h: float = 0.1, finding: str = "Mass") -> dict:
    """A box by its middle."""
    return {"finding": finding, "x": x - w / 2, "y": y - h / 2, "w": w, "h": h}


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from(WORDS), st.integers(0, 2**14 - 1), st.sampled_from(["", "PA", "AP"]))
def test_given_any_boxes_when_their_prompt_is_parsed_then_what_it_says_comes_back(
    boxes: list[dict], words: PositionWords, others: int, view: str
) -> None:
    placed = [place(one, words) for one in boxes]
    labels = NIH.encode(one.finding for one in placed) | others
    write = PromptWriter(PromptSettings(positions=words, age=True, sex=True), NIH)
    prompt = write(labels, view, 57, "F", placed)
    found = parse(prompt, NIH_FINDINGS)
    # Each finding is named; where all fits, each place too.
    assert {one.finding for one in found} == set(NIH.decode(labels))
    alone = [name for name in NIH.decode(labels) if name not in {one.finding for one in placed}]
    wanted = {one.said for one in placed} | {(name, None, "") for name in alone}
    full = ", ".join(phrase(one, words.sides) for one in placed)
    if estimate_tokens(f"{write(labels, view, 57, 'F')}, {full}") <= MAX_TOKENS:
        assert {one.said for one in found} == wanted
    assert unplaced(prompt, NIH_FINDINGS) == write(labels, view, 57, "F")


def _bits(placed: list[PlacedFinding]) -> int:
    return NIH.encode(one.finding for one in placed)


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from(WORDS))
def test_given_places_then_a_prompt_is_never_longer_than_clip_reads(boxes: list[dict], words: PositionWords) -> None:
    placed = [place(one, words) for one in boxes]
    write = PromptWriter(PromptSettings(positions=words, age=True, sex=True), NIH)
    assert estimate_tokens(write(_bits(placed), "PA", 57, "F", placed)) <= MAX_TOKENS


def test_given_a_prompt_too_long_then_sizes_go_first_and_then_the_places_of_small_boxes() -> None:
    words = PositionWords(regions="zones", sides="image", sizes=True)
    findings = ["Pneumothorax", "Pleural_Thickening", "Atelectasis", "Effusion", "Consolidation", "Mass"]
    placed = [place(box(0.2, 0.2, w=0.05 + 0.04 * i, finding=name), words) for i, name in enumerate(findings)]
    labels = NIH.encode(findings)
    prompt = PromptWriter(PromptSettings(positions=words), NIH)(labels, "AP", placed=placed)
    found = {one.finding: one for one in parse(prompt, NIH_FINDINGS)}
    assert {one.size for one in found.values()} == {""}
    assert found["Mass"].region is not None
    assert found["Pneumothorax"].region is None


def test_the_patients_left_is_on_the_right_of_the_image() -> None:
    cell = cell_of(box(0.9, 0.2))
    assert (cell.side, region_words(cell, "image")) == ("right", "the upper right of the image")
    assert region_words(cell, "patient") == "the upper left"


@pytest.mark.parametrize("regions", [GRID, ZONES])
def test_given_all_regions_then_no_words_mean_two_of_them(regions: tuple) -> None:
    for sides in ("patient", "image"):
        assert len({region_words(region, sides) for region in regions}) == len(regions)
    said = [
        parse(f"mass in {region_words(region, sides)}", ["Mass"])
        for region in regions
        for sides in ("patient", "image")
    ]
    assert [one.region for (one,) in said] == [region for region in regions for _ in range(2)]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (box(0.20, 0.30), "the right upper lung zone"),
        (box(0.80, 0.50, w=0.3), "the left mid lung zone"),
        (box(0.38, 0.48), "the right perihilar zone"),
        (box(0.85, 0.80), "the left costophrenic angle"),
        (box(0.57, 0.70), "the retrocardiac zone"),
        (box(0.55, 0.55, w=0.45), "the midline"),
        (box(0.50, 0.50, w=0.80), "both lungs"),
    ],
)
def test_given_a_box_then_its_zone_is_where_a_radiologist_would_say(where: dict, words: str) -> None:
    placed = place(where, PositionWords(regions="zones"))
    assert placed.region is not None
    assert region_words(placed.region, "patient") == words


@pytest.fixture(scope="module")
def nih_boxes(nih_data: Path) -> pd.DataFrame:
    """All boxes of ChestX-ray14, in fractions of the image."""
    boxes = read_boxes(BoxFile(path=nih_data / "metadata" / BBOX_LIST), NIH)
    return pd.DataFrame(unit_boxes(boxes.to_dict("records"), 1024)).assign(image_id=boxes["image_id"])


@pytest.mark.parametrize("words", WORDS, ids=lambda words: f"{words.regions}-{words.sides}-{words.sizes}")
def test_given_all_984_boxes_then_each_prompt_says_them_all_in_77_tokens(
    nih_boxes: pd.DataFrame, words: PositionWords
) -> None:
    write, count = PromptWriter(PromptSettings(positions=words), NIH), token_counter(BUILT_IN["tiny_base"])
    assert len(nih_boxes) == 984
    for _, group in nih_boxes.groupby("image_id"):
        placed = [place(one, words) for one in group.to_dict("records")]
        prompt = write(NIH.encode(group["finding"]), "PA", placed=placed)
        assert {one.said for one in placed} <= {one.said for one in parse(prompt, NIH_FINDINGS)}
        assert estimate_tokens(prompt) <= MAX_TOKENS
        if words.sides == "patient":
            assert count(prompt) <= MAX_TOKENS


def test_given_all_984_boxes_then_this_is_how_often_each_finding_is_in_each_cell(nih_boxes: pd.DataFrame) -> None:
    cells = [region_words(cell_of(one), "image") for one in nih_boxes.to_dict("records")]
    table = pd.crosstab(nih_boxes["finding"], pd.Series(cells, nih_boxes.index, name="cell"))
    print(f"\n{table.to_string()}")
    assert table.to_numpy().sum() == 984
    share = (pd.Series(cells) == "the middle center of the image").mean()
    assert round(share, 2) == 0.32


def test_the_heart_is_on_the_right_of_the_image_in_138_of_146_boxes_of_cardiomegaly(nih_boxes: pd.DataFrame) -> None:
    hearts = nih_boxes[nih_boxes["finding"] == "Cardiomegaly"].to_dict("records")
    assert (len(hearts), sum(middle(heart)[0] > 0.5 for heart in hearts)) == (146, 138)
