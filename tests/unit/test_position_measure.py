"""Hit rate, side and overlap: of a localiser on real boxes, and of images that were asked for somewhere."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.data.positions.phrases import region_words
from cxr_core.data.positions.regions import GRID, Region
from cxr_core.evaluation.intervals import mean_interval
from cxr_core.evaluation.position.locate import peak
from cxr_core.evaluation.position.measure import iou, judge_positions
from cxr_core.evaluation.position.results import PositionFinding
from cxr_core.evaluation.position.settings import Position
from cxr_core.models.localiser_folder import LocaliserInfo

PRIOR = "the middle center of the image"
INFO = LocaliserInfo(image_size=64, findings=("Mass",), prior={"Mass": PRIOR}, dataset="d", num_boxes={}, about={})
SETTINGS = Position(num_resamples=200)
SIDED = [cell for cell in GRID if cell.side]


def found_in(image_id: str, region: Region) -> dict[str, Any]:
    """A box in the middle of a cell, a third as wide."""
    width = (region.x1 - region.x0) / 3
    return {
        "image_id": image_id,
        "finding": "Mass",
        "score": 0.9,
        "x": region.x0 + width,
        "y": region.y0 + width,
        "w": width,
        "h": width,
    }


def real_image(i: int, region: Region, size: int = 64) -> dict[str, Any]:
    box = found_in("", region)
    boxes = [{"finding": "Mass", **{name: box[name] * size for name in ("x", "y", "w", "h")}}]
    return {"image_id": f"r{i:03d}", "patient_id": f"p{i // 2}", "boxes": boxes}


def asked_image(i: int, region: Region, request: str = "") -> dict[str, Any]:
    prompt = f"frontal chest x-ray, PA view, mass in {region_words(region, 'patient')}"
    return {"image_id": f"s{i:03d}", "prompt": prompt, "request": request}


def judged(
    real: list[tuple[Region, Region]], synthetic: list[tuple[Region, Region]], settings: Position = SETTINGS
) -> PositionFinding:
    """Of pairs: where it is (or was asked for), and where it was found."""
    rows = pd.DataFrame([real_image(i, where) for i, (where, _) in enumerate(real)])
    made = pd.DataFrame([asked_image(i, where) for i, (where, _) in enumerate(synthetic)])
    found = {
        "real": pd.DataFrame([found_in(f"r{i:03d}", there) for i, (_, there) in enumerate(real)]),
        "synthetic": pd.DataFrame([found_in(f"s{i:03d}", there) for i, (_, there) in enumerate(synthetic)]),
    }
    (finding,) = judge_positions(rows, 64, made, found, INFO, NIH, settings, seed=1)
    return finding


def mirrored(region: Region) -> Region:
    return next(
        other for other in GRID if other.words == region.words and (other.side != region.side or not region.side)
    )


EVERYWHERE = [(cell, cell) for cell in GRID * 4]


def test_given_a_generator_that_obeys_then_hits_and_sides_are_whole_and_the_commonest_cell_has_a_ninth() -> None:
    finding = judged(EVERYWHERE, EVERYWHERE)
    assert finding.trial.refused is None
    assert finding.trial.hit_rate is not None
    assert (finding.trial.hit_rate.value, finding.trial.guess) == (1.0, pytest.approx(1 / 9))
    (asked,) = finding.asked
    assert asked.hit_rate is not None
    assert asked.laterality is not None
    assert (asked.hit_rate.value, asked.laterality.value, asked.num_sided) == (1.0, 1.0, 24)
    assert asked.iou is not None
    assert asked.iou.value == pytest.approx(1 / 9)
    assert asked.verdict == "follows"
    assert asked.confusion["the upper left of the image"] == {"the upper left of the image": 4}


def test_given_a_generator_that_takes_left_for_right_then_no_side_is_right() -> None:
    (asked,) = judged(EVERYWHERE, [(cell, mirrored(cell)) for cell in SIDED * 4]).asked
    assert asked.laterality is not None
    assert asked.laterality.value == 0.0
    assert asked.verdict == "not_shown"


def test_given_a_generator_that_always_shows_the_commonest_cell_then_nothing_is_shown() -> None:
    center = next(cell for cell in GRID if region_words(cell, "image") == PRIOR)
    (asked,) = judged(EVERYWHERE, [(cell, center) for cell in GRID * 4]).asked
    assert asked.hit_rate is not None
    assert asked.hit_rate.value == pytest.approx(asked.guess)
    assert asked.verdict == "not_shown"


@pytest.mark.parametrize(
    ("real", "words"),
    [
        (EVERYWHERE[:7], "n = 7 held-out images with a box, 20 are needed"),
        ([(cell, mirrored(cell)) for cell in SIDED * 4], "its hit rate on real boxes may be 0.00, below 0.50 (n = 24)"),
    ],
)
def test_given_a_localiser_that_fails_on_real_boxes_then_it_says_nothing_and_why(real: list, words: str) -> None:
    finding = judged(real, EVERYWHERE)
    assert finding.trial.refused == words
    assert finding.asked[0].hit_rate is None
    assert finding.asked[0].refused == f"the localiser is refused: {words}"


def test_given_a_localiser_no_better_than_a_guess_then_it_is_refused() -> None:
    center = next(cell for cell in GRID if region_words(cell, "image") == PRIOR)
    refused = judged([(center, center)] * 40, EVERYWHERE).trial.refused
    # All images of 20 patients: Wilson's lower bound is 20 / (20 + 1.96^2).
    assert refused == f"its hit rate on real boxes may be 0.84, always guessing {PRIOR} has 1.00"


def test_given_few_synthetic_images_with_a_place_then_the_number_is_missing_with_its_n() -> None:
    (asked,) = judged(EVERYWHERE, EVERYWHERE[:5]).asked
    assert asked.refused == "n = 5 images asked for with a place, 20 are needed"


def test_given_a_map_with_two_patches_then_the_box_is_that_of_the_higher() -> None:
    heat = np.zeros((16, 16), np.float32)
    heat[2:5, 1:4], heat[10:12, 9:15] = 0.6, 0.9
    assert peak(heat) == {"score": pytest.approx(0.9), "x": 9 / 16, "y": 10 / 16, "w": 6 / 16, "h": 2 / 16}


def test_iou_of_equal_apart_and_half_shifted_squares() -> None:
    assert iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert iou((0, 0, 0.4, 0.4), (0.5, 0.5, 1, 1)) == 0
    assert iou((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)


def test_the_interval_of_a_mean_is_wider_where_images_are_of_few_patients() -> None:
    values = np.tile([0.0, 1.0], 50).repeat(2)
    alone = mean_interval(values, np.arange(200), 3, 500)
    grouped = mean_interval(values, np.arange(200) // 20 * 2 + (values > 0), 3, 500)
    assert alone.value == grouped.value == 0.5
    assert grouped.high - grouped.low > alone.high - alone.low
