"""Requests: exact allocation, the frozen list of images, and what an impossible request says."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cxr_core.data.findings import NIH
from cxr_core.data.prompts import PromptWriter
from cxr_core.data.settings import PromptSettings
from cxr_core.errors import UserError
from cxr_core.generation.requests import (
    allocate,
    check_places,
    describe,
    exact_list,
    largest_remainder,
    left_out,
    read_list,
    shards_of,
    write_list,
)
from cxr_core.generation.settings import GenerateStage, Request
from cxr_core.runs.plan import Shard
from cxr_core.seeds import derive_seed

EDEMA, EFFUSION = NIH.bit("Edema"), NIH.bit("Effusion")


def real_rows() -> pd.DataFrame:
    """Train: Edema 17 AP and 3 PA, No Finding 10 AP and 30 PA, one Edema|Effusion PA; test images beside."""
    counts = {(EDEMA, "AP"): 17, (EDEMA, "PA"): 3, (0, "AP"): 10, (0, "PA"): 30, (EDEMA | EFFUSION, "PA"): 1}
    rows = [("train", labels, view) for (labels, view), num in counts.items() for _ in range(num)]
    rows += [("test", NIH.bit("Hernia"), "AP")] * 5
    return pd.DataFrame(rows, columns=["split", "labels", "view"]).assign(patient_id=[str(i) for i in range(len(rows))])


def table(cells: pd.DataFrame) -> dict[tuple[int, str], int]:
    return {(labels, view): num for labels, view, num, _ in cells.itertuples(index=False)}


weights = st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any)


@settings(deadline=None)
@given(weights, st.integers(0, 10**7))
def test_given_any_weights_shares_sum_to_the_total_and_are_the_quota_rounded(values: list[int], total: int) -> None:
    shares = largest_remainder(values, total)
    assert shares.sum() == total
    for share, value in zip(shares.tolist(), values, strict=True):
        floor, rest = divmod(total * value, sum(values))
        assert share in ({floor, floor + 1} if rest else {floor})


@settings(deadline=None)
@given(weights, st.integers(0, 10**7))
def test_given_any_weights_only_the_largest_remainders_are_rounded_up(values: list[int], total: int) -> None:
    shares = largest_remainder(values, total)
    rests = [(total * value) % sum(values) for value in values]
    up = [
        rest for rest, share, value in zip(rests, shares, values, strict=True) if share > total * value // sum(values)
    ]
    down = [
        rest for rest, share, value in zip(rests, shares, values, strict=True) if share == total * value // sum(values)
    ]
    assert not up or not down or min(up) >= max(down)


def test_given_counts_views_follow_the_real_training_images_of_that_finding() -> None:
    request = Request(counts={"Edema": 100, "No Finding": 8})
    assert table(allocate(request, real_rows(), NIH)) == {
        (EDEMA, "AP"): 81,  # 17 of the 21 training images with Edema, alone or not
        (EDEMA, "PA"): 19,
        (0, "AP"): 2,
        (0, "PA"): 6,
    }


def test_given_a_combination_views_follow_images_that_have_all_of_it() -> None:
    assert table(allocate(Request(counts={"Effusion|Edema": 5}), real_rows(), NIH)) == {(EDEMA | EFFUSION, "PA"): 5}


def test_given_like_train_the_real_proportions_are_met_exactly() -> None:
    cells = allocate(Request(like="train", num_images=610), real_rows(), NIH)
    assert table(cells) == {
        (EDEMA, "AP"): 170,
        (EDEMA, "PA"): 30,
        (0, "AP"): 100,
        (0, "PA"): 300,
        (EDEMA | EFFUSION, "PA"): 10,
    }


def test_given_balanced_findings_share_equally_and_the_first_take_what_does_not_divide() -> None:
    cells = allocate(Request(balanced=("Edema", "No Finding"), num_images=11), real_rows(), NIH)
    assert cells.groupby("labels")["num_images"].sum().to_dict() == {EDEMA: 6, 0: 5}


def test_given_a_fixed_view_all_images_have_it_even_where_no_real_image_is_like_them() -> None:
    request = Request(counts={"Hernia": 3}, view="PA")
    assert table(allocate(request, real_rows(), NIH)) == {(NIH.bit("Hernia"), "PA"): 3}


def test_given_fill_each_finding_gets_what_its_real_training_images_lack() -> None:
    request = Request(fill=30)
    assert table(allocate(request, real_rows(), NIH)) == {
        (EDEMA, "AP"): 7,  # 21 training images have it, 17 of them AP
        (EDEMA, "PA"): 2,
        (EFFUSION, "PA"): 30,  # as if of nobody: of fewer than 10 patients, 29 would tell
    }
    assert request.most(14) == 420
    passed_over = left_out(request, real_rows(), NIH)
    assert len(passed_over) == 12
    assert "Hernia" in passed_over


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Request(counts={"Edma": 3}), "unknown finding 'Edma'"),
        (Request(counts={"Hernia": 3}), "nothing to be like: no real training image has 'Hernia'"),
        (Request(counts={"Edema|No Finding": 3}), "contradicts itself"),
        (Request(fill=1), "nothing to fill up to 1: the rarest finding, "),
        (Request(counts={"Edema|Effusion": 3, "Effusion|Edema": 2}), "are the same images"),
    ],
)
def test_given_an_impossible_request_the_message_says_where_and_what_to_do(request_: Request, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        allocate(request_, real_rows(), NIH, where="stage 'synthetic', request")
    assert str(caught.value).startswith("stage 'synthetic', request: ")
    assert caught.value.hint


def test_given_findings_that_have_enough_then_fill_names_the_rarest_and_the_number_to_exceed() -> None:
    rows = real_rows()
    rows = rows.assign(labels=[NIH.bit("Edema")] * 35 + [NIH.bit("Mass")] * (len(rows) - 35), split="train")
    with pytest.raises(UserError) as caught:
        allocate(Request(fill=30), rows, NIH)
    assert "Mass, has 31 real training images" in caught.value.what
    assert "above 31" in caught.value.hint
    with pytest.raises(UserError, match="no real training image has any finding") as caught:
        allocate(Request(fill=30), rows.assign(labels=0), NIH)
    assert "counts" in caught.value.hint


PLACED = {"Edema in the upper left": 20, "Edema in the upper right of the image": 20, "Edema": 20}


def test_given_places_in_a_request_each_prompt_says_its_own_in_the_words_of_the_dataset() -> None:
    with pytest.raises(UserError, match="are the same images"):
        allocate(Request(counts=PLACED), real_rows(), NIH)
    counts = {"Edema in the upper left": 20, "Edema in the upper left of the image|Effusion": 1, "Edema": 20}
    cells = allocate(Request(counts=counts), real_rows(), NIH)
    prompts = PromptSettings(positions={})
    check_places(cells, prompts, where="request")
    said = exact_list(cells, PromptWriter(prompts, NIH), 0).to_pandas()["prompt"].value_counts()
    assert said["frontal chest x-ray, AP view, pulmonary edema in the upper left"] == 16
    assert said["frontal chest x-ray, PA view, pleural effusion, pulmonary edema in the upper right"] == 1
    assert said["frontal chest x-ray, PA view, pulmonary edema"] == 4
    assert "20 pulmonary edema in the upper left (AP 16, PA 4)" in describe(cells, NIH)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (PromptSettings(), "say no places"),
        (PromptSettings(positions={"regions": "zones"}), "say places by zones"),
    ],
)
def test_given_places_in_words_that_training_never_had_the_request_is_refused(
    prompts: PromptSettings, words: str
) -> None:
    cells = allocate(Request(counts={"Edema in the upper left": 2}), real_rows(), NIH)
    with pytest.raises(UserError, match=words) as caught:
        check_places(cells, prompts, where="request")
    assert "'pulmonary edema in the upper left' is asked for" in str(caught.value)


def test_given_no_training_images_like_train_is_refused() -> None:
    rows = real_rows()
    with pytest.raises(UserError, match="no training images"):
        allocate(Request(like="train", num_images=5), rows[rows["split"] == "test"], NIH)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"counts": {"Edema": 0}}, "greater than 0"),
        ({"counts": {}}, "at least 1 item"),
        ({}, "exactly one of counts, like, balanced, fill and rare_captions, not none"),
        ({"counts": {"Edema": 1}, "like": "train"}, "not counts and like"),
        ({"like": "train"}, "like needs num_images"),
        ({"counts": {"Edema": 1}, "num_images": 5}, "remove num_images"),
        ({"fill": 5, "num_images": 5}, "fill already says how many images: remove num_images"),
    ],
)
def test_given_a_contradicting_request_validation_names_the_mend(values: dict, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Request(**values)


def test_given_a_shard_that_cuts_a_batch_validation_offers_a_size() -> None:
    stage = {
        "name": "a",
        "kind": "generate",
        "inputs": {"model": "m", "like": "r"},
        "request": {"counts": {"Edema": 1}},
    }
    with pytest.raises(ValidationError, match="shard_size 100 is no multiple of batch_size 16: take 96"):
        GenerateStage(**stage, batch_size=16, shard_size=100)


EDEMA_ONLY: dict = {"counts": {"Edema": 1}}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "exactly one of `request` and `requests`"),
        ({"request": EDEMA_ONLY, "requests": [{"name": "a", **EDEMA_ONLY}]}, "exactly one of"),
        ({"requests": [{"name": "a", **EDEMA_ONLY}] * 2}, "have a name twice"),
        ({"requests": [{"name": "a", **EDEMA_ONLY}], "sweep": {"guidance": [1, 3]}}, "draws one `request`"),
        ({"request": EDEMA_ONLY, "sweep": {}}, "nothing is varied"),
        ({"request": EDEMA_ONLY, "sweep": {"guidance": [1, 1]}}, "name each once"),
        ({"requests": [{"name": "a", "model": "n", **EDEMA_ONLY}]}, "wants model 'n': inputs.model has"),
        ({"request": EDEMA_ONLY, "inputs": {"model": ["m", "n"], "like": "r"}}, "no request names"),
    ],
)
def test_given_series_that_cannot_be_validation_names_the_mend(values: dict, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        GenerateStage(**{"name": "a", "kind": "generate", "inputs": {"model": "m", "like": "r"}, **values})


def some_list(seed: int = 3) -> pd.DataFrame:
    cells = allocate(Request(counts={"Edema": 600, "No Finding": 400}), real_rows(), NIH)
    return exact_list(cells, lambda labels, view: f"{labels} {view}", seed).to_pandas()


def test_given_a_seed_the_list_is_exact_and_each_image_has_its_own_seed() -> None:
    images = some_list()
    assert images["image_id"].tolist() == [f"syn-{i:08d}" for i in range(1000)]
    assert Counter(images["labels"]) == {EDEMA: 600, 0: 400}
    assert (images["prompt"] == images["labels"].astype(str) + " " + images["view"]).all()
    assert images["seed"].tolist() == [derive_seed(3, image_id, 0) for image_id in images["image_id"]]
    assert images["seed"].is_unique


def test_given_a_list_any_first_part_is_like_the_whole() -> None:
    images = some_list()
    shares = [(images["labels"].head(num) == EDEMA).mean() for num in (100, 200, 500)]
    np.testing.assert_allclose(shares, 0.6, atol=0.12)


def test_given_a_written_list_a_shard_reads_exactly_its_rows(tmp_path: Path) -> None:
    cells = allocate(Request(counts={"Edema": 10}), real_rows(), NIH)
    images = exact_list(cells, lambda labels, view: view, 0)
    write_list(tmp_path / "list.parquet", [images], 4)
    read = [read_list(tmp_path / "list.parquet", Shard(f"{i:05d}", 0, 1)).to_pylist() for i in range(3)]
    assert read == [images.slice(start, 4).to_pylist() for start in (0, 4, 8)]


def test_given_lists_of_several_series_no_shard_holds_images_of_two(tmp_path: Path) -> None:
    numbers = {"a": 5, "b": 3, "c": 6}
    cells = [allocate(Request(counts={"Edema": num}), real_rows(), NIH) for num in numbers.values()]
    lists, first = [], 0
    for name, table in zip(numbers, cells, strict=True):
        lists.append(exact_list(table, lambda labels, view: view, 0, first=first, series=name))
        first += numbers[name]
    write_list(tmp_path / "list.parquet", lists, 4)
    shards = shards_of(numbers.values(), 4)
    assert [(shard.id, shard.start, shard.stop) for shard in shards] == [
        ("00000", 0, 4),
        ("00001", 4, 5),
        ("00002", 5, 8),
        ("00003", 8, 12),
        ("00004", 12, 14),
    ]
    read = [read_list(tmp_path / "list.parquet", shard).to_pandas() for shard in shards]
    assert [rows["request"].unique().tolist() for rows in read] == [["a"], ["a"], ["b"], ["c"], ["c"]]
    assert [rows["image_id"].iloc[0] for rows in read] == [f"syn-{shard.start:08d}" for shard in shards]
    of_before = [replace(shard, extra={}) for shard in shards]
    read_as_before = [read_list(tmp_path / "list.parquet", shard).to_pandas() for shard in of_before]
    assert [rows["image_id"].tolist() for rows in read_as_before] == [rows["image_id"].tolist() for rows in read]


def test_given_an_allocation_the_description_states_it_exactly() -> None:
    cells = allocate(Request(counts={"No Finding": 4, "Edema": 100}), real_rows(), NIH)
    assert describe(cells, NIH) == ["100 Edema (AP 81, PA 19)", "4 No Finding (AP 1, PA 3)"]
    assert describe(cells, NIH, most=1)[-1] == "4 of 1 rarer combinations"
