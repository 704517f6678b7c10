"""Verdicts of an evaluation: named in metrics.json, worded by the report, and read from files of older versions."""

import pytest

from cxr_core.evaluation.metrics import Metrics, PromptContrast
from cxr_core.evaluation.position.results import PositionAsked
from cxr_core.report.verdicts import copying_alarm, coverage_words, position_words, prompt_words
from tests.unit import report_run

AUROC = {"value": 0.9, "low": 0.8, "high": 0.95}
CONTRAST = {"within": "pooled", "num_with": 20, "num_without": 30, "auroc": AUROC}


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("reversed: clearer in images asked for without it", "reversed"),
        ("not shown: shuffled prompts explain it", "not_shown"),
        ("there; not compared with real images", "not_compared"),
        ("exaggerated: clearer than in real images (intervals overlap)", "exaggerated"),
        ("there, not told from real images (intervals overlap)", "not_told_apart"),
        ("there, but fainter than in real images", "fainter"),
        ("n = 3 images, 10 are needed", "refused"),
    ],
)
def test_given_a_verdict_of_an_older_file_then_it_has_the_name_of_now(sentence: str, name: str) -> None:
    overlap = "do not" not in sentence
    old = PromptContrast.model_validate(CONTRAST | {"verdict": sentence, "overlap": overlap, "refused": sentence})
    assert old.verdict == name
    assert prompt_words(old) == sentence
    assert PromptContrast.model_validate(old.model_dump(mode="json")) == old


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("not shown: always showing it in its commonest cell would do as well", "not_shown"),
        ("follows the prompt, but less often than the localiser finds real boxes", "follows_less"),
        ("follows the prompt, as often as the localiser can tell", "follows"),
        ("the localiser is refused: n = 2", "refused"),
    ],
)
def test_given_a_verdict_of_positions_of_an_older_file_then_it_has_the_name_of_now(sentence: str, name: str) -> None:
    old = PositionAsked.model_validate(
        {"request": "", "num_images": 9, "verdict": sentence, "refused": sentence if name == "refused" else None}
    )
    assert old.verdict == name
    assert position_words(old) == sentence


def test_given_a_file_of_before_with_sentences_then_the_numbers_are_read_and_worded_anew() -> None:
    told = report_run.metrics("Edema").model_dump(mode="json")
    told["fidelity"] |= {"alarm_words": "It said so.", "comparability": "Not comparable."}
    told["fidelity"]["headline"]["coverage"]["words"] = "covers a lot"
    read = Metrics.model_validate(told).fidelity
    assert read is not None
    assert "said so" not in copying_alarm(read)
    assert coverage_words(read.headline.coverage) == "covers 93 % of the request; lacks Edema PA"
    assert "alarm_words" not in read.model_dump()


def test_given_a_verdict_of_no_name_then_the_file_is_refused() -> None:
    with pytest.raises(ValueError, match="verdict"):
        PromptContrast.model_validate(CONTRAST | {"verdict": 3})
