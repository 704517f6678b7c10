"""Prompts: the three styles, the words they hold, and the 77 tokens of CLIP."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cxr_core.data.findings import NIH, NIH_FINDINGS, NO_FINDING, Findings
from cxr_core.data.prompts import MAX_TOKENS, PromptWriter, check_lengths, estimate_tokens, token_counter
from cxr_core.data.settings import PromptSettings
from cxr_core.data.words import prompt_words
from cxr_core.errors import UserError
from tests.conftest import require

EDEMA_EFFUSION = NIH.encode(["Edema", "Effusion"])


STUDY = {"style": "study"}
WHO = {"age": True, "sex": True}


def written(given: dict, labels: int, view: str = "", age: float | None = None, sex: str = "") -> str:
    return PromptWriter(PromptSettings.model_validate(given), NIH)(labels, view, age, sex)


def test_the_study_style_is_the_literal_string_of_the_study() -> None:
    assert written(STUDY, NIH.bit("Edema"), "AP", 57, "M") == "ChestXRay Edema"
    assert written(STUDY, EDEMA_EFFUSION) == "ChestXRay Effusion Edema"
    assert written(STUDY, NIH.bit("Pleural_Thickening")) == "ChestXRay Pleural Thickening"
    assert written(STUDY, 0) == "ChestXRay No Finding"


def test_the_clinical_style_says_view_and_findings_and_nobodys_age_unless_asked() -> None:
    assert (
        written({}, EDEMA_EFFUSION, "AP", 57, "F") == "frontal chest x-ray, AP view, pleural effusion, pulmonary edema"
    )
    assert written({}, 0) == "frontal chest x-ray, no finding"
    assert written({"view": False}, 0, "PA") == "frontal chest x-ray, no finding"
    assert written(WHO, 0, "PA", 57.9, "F") == "frontal chest x-ray, PA view, 57 year old female, no finding"
    assert written(WHO, 0, "PA", float("nan"), "M") == "frontal chest x-ray, PA view, male, no finding"


def test_a_prompt_may_leave_the_findings_unsaid() -> None:
    assert (
        written({"findings": False, "sex": True}, EDEMA_EFFUSION, "AP", 57, "F")
        == "frontal chest x-ray, AP view, female"
    )


def test_a_template_fills_its_fields_and_says_what_is_unknown() -> None:
    text = {"style": "template", "template": "{sex}, {age}: {names} ({findings}), {view}"}
    assert written(text, EDEMA_EFFUSION, "AP", 57, "F") == (
        "female, 57: Effusion, Edema (pleural effusion, pulmonary edema), AP"
    )
    assert written(text, 0) == "unknown, unknown: No Finding (no finding), unknown"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"style": "template"}, "go together"),
        ({"template": "{findings}"}, "go together"),
        ({"style": "study", "age": True}, "belong to `style: clinical`"),
        ({"style": "study", "findings": False}, "in `style: clinical` only"),
        ({"style": "template", "template": "{finding}"}, r"template has \['finding'\]; its fields are \{findings\}"),
        ({"style": "template", "template": "{findings.x}"}, "template has"),
        ({"style": "template", "template": "{findings:>9}"}, "template has"),
        ({"style": "template", "template": "{findings"}, "write {{ for a brace"),
        ({"style": "template", "template": "a chest x-ray"}, "says nothing of the findings"),
    ],
)
def test_an_impossible_prompt_is_refused_with_the_config(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PromptSettings.model_validate(given)


@given(
    st.integers(0, 2**14 - 1),
    st.sampled_from(["PA", "AP", ""]),
    st.integers(0, 120) | st.none(),
    st.sampled_from(["M", "F", ""]),
    st.sampled_from(["study", "clinical", "template"]),
)
@settings(max_examples=100, deadline=None)
def test_every_word_of_every_prompt_is_in_the_list_of_words(
    labels: int, view: str, age: int | None, sex: str, style: str
) -> None:
    template = {"style": "template", "template": "{view} {age} {sex} {findings} {names}"}
    text = written({"study": STUDY, "clinical": WHO, "template": template}[style], labels, view, age, sex)
    words = {word for word in re.split(r"[\s,]+", text) if not word.isdigit()}
    assert words <= set(prompt_words())


def test_the_words_of_places_sizes_and_severities_are_listed() -> None:
    needed = (
        "upper mid middle lower left center right lung perihilar costophrenic retrocardiac side small large mild severe"
    )
    assert set(needed.split()) <= set(prompt_words())
    assert {"ChestXRay", *NIH_FINDINGS, *NO_FINDING.split()} <= set(prompt_words())


@given(st.integers(0, 2**14 - 1).filter(lambda bits: bits.bit_count() <= 9))
@settings(max_examples=100, deadline=None)
def test_nine_findings_the_most_that_an_image_has_fit_in_every_style(labels: int) -> None:
    for style in (STUDY, WHO):
        check_lengths({written(style, labels, "AP", 57, "M"): "00000001_000"}, None)


def test_a_prompt_of_too_many_tokens_is_named_with_an_image() -> None:
    with pytest.raises(UserError) as caught:
        check_lengths({"short": "00000001_000", "hernia " * 40: "00000002_000"}, None)
    assert "image 00000002_000: a prompt has 82 tokens, CLIP reads 77: 'hernia hernia" in str(caught.value)
    assert "a shorter template" in str(caught.value)


def test_words_that_nobody_knows_are_counted_as_many_tokens() -> None:
    assert estimate_tokens("xylophone 12 – _") >= 2 + 4 + 2 + 1 + 1


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither tokenizer.json nor vocab.json"):
        token_counter(tmp_path)


def test_a_tokenizer_of_ones_own_counts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"edema": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert token_counter(tmp_path)("edema and edema") == 5


@pytest.fixture
def clip_tokenizer(nih_data: Path) -> Path:
    """CLIP's vocab.json and merges.txt, beside the radiographs."""
    folder = nih_data.parent / "clip_bpe_tokenizer"
    require("data", (folder / "vocab.json").is_file(), f"no CLIP tokenizer at {folder}")
    return folder


def test_the_count_without_a_tokenizer_is_clips_for_our_words(clip_tokenizer: Path) -> None:
    clip = token_counter(clip_tokenizer)
    for word in prompt_words():
        assert estimate_tokens(word) == clip(word), word
    findings = Findings(NIH_FINDINGS)
    for pair in itertools.combinations(NIH_FINDINGS, 2):
        text = PromptWriter(PromptSettings(age=True, sex=True), findings)(findings.encode(pair), "AP", 57, "F")
        assert estimate_tokens(text) == clip(text), text
    assert MAX_TOKENS == 77
