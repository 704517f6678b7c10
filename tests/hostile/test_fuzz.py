"""Every reader of what somebody else may have written gives a value or a clear error, whatever the bytes are."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_core.data.generation_record import made_of
from cxr_core.runs.door import checked_inside, checked_name, parse
from cxr_core.runs.files import canonical_json
from cxr_core.yamlfile import parse_mapping
from tests.hostile.fuzz import (
    clear_errors,
    effort,
    good_files,
    harmed,
    harmed_json,
    odd_values,
    read_image,
    room,
    survives,
    with_good_checksums,
    yaml_texts,
)


@pytest.mark.parametrize("name", good_files())
def test_a_harmed_file_is_read_or_named(name: str) -> None:
    good = (room() / name).read_bytes()

    @effort()
    @given(harmed(good))
    def attempt(data: bytes) -> None:
        survives(name, data)

    attempt()
    survives(name, good)


@pytest.mark.parametrize("name", [name for name in good_files() if name.endswith(".json")])
def test_json_of_other_values_is_read_or_named(name: str) -> None:
    good = (room() / name).read_bytes()

    @effort(2)
    @given(harmed_json(good))
    def attempt(data: bytes) -> None:
        survives(name, data)

    attempt()


def test_an_image_is_read_or_named() -> None:
    good = (room() / "grid.png").read_bytes()

    @effort(5)
    @given(harmed(good) | harmed(good).map(with_good_checksums) | st.binary(max_size=200))
    def attempt(data: bytes) -> None:
        read_image(data)

    attempt()


@effort(10)
@given(yaml_texts())
def test_yaml_is_a_mapping_or_named(text: str) -> None:
    with clear_errors("a.yaml"):
        assert isinstance(parse_mapping(text, Path("a.yaml"), hint=""), dict)


@effort(10)
@given(odd_values)
def test_a_record_of_an_image_is_read_or_named(value: Any) -> None:
    try:
        text = canonical_json(value)
        text.encode()
    except ValueError:
        return
    with clear_errors("'a'"):
        assert isinstance(made_of(text, "a", Path("data")), dict)


@effort(10)
@given(st.binary(max_size=100))
def test_a_record_is_parsed_or_named(data: bytes) -> None:
    for kind in (Any, dict[str, Any], list[int], str):
        with clear_errors("a.json"):
            parse(data, kind, Path("a.json"))


@effort(20)
@given(st.text(alphabet="./\\a\0\n\x1b\ud800\u202e\x85 ", max_size=12))
def test_a_name_never_leads_out(text: str) -> None:
    for check in (checked_name, checked_inside):
        try:
            found = Path("/a/place") / check(text)
        except ValueError:
            continue
        assert found.resolve().is_relative_to("/a/place")
        assert found.name == text.split("/")[-1]
