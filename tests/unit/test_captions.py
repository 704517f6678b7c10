"""Captions that few images or patients have: found, matched with common ones, asked for, and warned of."""

import pandas as pd
import pytest
from pydantic import ValidationError

from cxr_core.data.captions import captions, matched, warning
from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.generation.requests import allocate
from cxr_core.generation.settings import Request

MASS, EDEMA, HERNIA = (NIH.bit(name) for name in ("Mass", "Edema", "Hernia"))


def table(*groups: tuple[int, str, int, int]) -> pd.DataFrame:
    """Training rows of (labels, view, images, patients)."""
    rows = [
        {"image_id": f"{labels}{view}{i}", "patient_id": f"p{i % patients}", "labels": labels, "view": view}
        for labels, view, images, patients in groups
        for i in range(images)
    ]
    return pd.DataFrame(rows).assign(split="train")


@pytest.fixture
def train() -> pd.DataFrame:
    """Common: nothing PA, Mass PA, Edema PA, nothing AP. Rare: Hernia PA, Mass and Edema PA, Hernia AP; between: Mass
    AP."""
    common = [(0, "PA", 90, 90), (MASS, "PA", 30, 30), (EDEMA, "PA", 20, 9), (0, "AP", 40, 40)]
    return table(*common, (HERNIA, "PA", 2, 1), (MASS | EDEMA, "PA", 5, 5), (HERNIA, "AP", 1, 1), (MASS, "AP", 9, 6))


def test_captions_are_counted_by_images_and_patients(train: pd.DataFrame) -> None:
    found = captions(train).set_index(["labels", "view"])
    assert found.loc[(EDEMA, "PA"), ["num_images", "num_patients"]].tolist() == [20, 9]
    assert len(found) == 8


def test_given_rare_captions_then_each_has_a_common_match_of_its_view_with_as_many_findings_or_nearly(
    train: pd.DataFrame,
) -> None:
    found = matched(train, max_images=5).set_index(["labels", "view"])
    assert set(found.index) == {(HERNIA, "PA"), (MASS | EDEMA, "PA"), (HERNIA, "AP")}
    assert {found.at[(HERNIA, "PA"), "common"], found.at[(MASS | EDEMA, "PA"), "common"]} == {MASS, EDEMA}
    assert found.at[(HERNIA, "AP"), "common"] == 0  # nothing with a finding is common there
    assert found.at[(HERNIA, "PA"), "num_images"] == 2


def test_given_a_request_for_rare_captions_then_they_and_their_matches_are_asked_for(train: pd.DataFrame) -> None:
    cells = allocate(Request(rare_captions={"max_images": 5, "per_caption": 7}), train, NIH)
    assert len(cells) == 6
    assert set(cells["num_images"]) == {7}
    some = allocate(Request(rare_captions={"per_caption": 3, "num_captions": 1}), train, NIH)
    assert some[["labels", "view"]].values.tolist() == [[0, "AP"], [HERNIA, "AP"]]


def test_given_no_rare_caption_then_the_request_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is rare: no caption is held by at most 5 training images"):
        allocate(Request(rare_captions={}), table((0, "PA", 50, 50)), NIH)


def test_given_rare_captions_beside_a_view_or_a_number_then_the_config_is_refused() -> None:
    with pytest.raises(ValidationError, match="remove view"):
        Request(rare_captions={}, view="PA")
    with pytest.raises(ValidationError, match="remove num_images"):
        Request(rare_captions={}, num_images=10)


def test_given_captions_of_few_patients_then_people_are_warned_with_an_example(train: pd.DataFrame) -> None:
    (line,) = warning(train, NIH)
    assert line.startswith("3 of 8 captions are held by at most 5 training patients, e.g. Hernia AP by 1 patient:")
    asked = pd.DataFrame({"labels": [0, MASS | EDEMA], "view": ["PA", "PA"]})
    (line,) = warning(train, NIH, asked)
    assert line.startswith("1 of 2 captions asked for are held by at most 5 training patients, e.g. Mass|Edema PA by 5")
    assert warning(train, NIH, asked.head(1)) == []
