"""What is read, moved and removed in a folder that somebody else may have written."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cxr_core.runs.door import STRICT, BadFileError, Place, checked_name, parse, parse_lines, printable, read_bytes


@dataclass(frozen=True)
class Record:
    """A number and a name."""

    __pydantic_config__ = STRICT

    num: int
    name: str = ""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept.json").write_text('{"num": 1}')
    return Place(tmp_path / "root")


def test_a_class_that_does_not_say_which_further_keys_it_takes_is_a_defect(place: Place) -> None:
    @dataclass(frozen=True)
    class Silent:
        num: int

    with pytest.raises(TypeError, match="__pydantic_config__"):
        parse(b'{"num": 1}', Silent, Path("x"))
    with pytest.raises(BadFileError, match="more"):
        parse(b'[{"num": 1, "more": 2}]', list[Silent], Path("x"))


def test_a_record_is_read_as_its_class_and_lines_as_a_list(place: Place) -> None:
    (place / "inside").write("a.json", '{"num": 2, "name": "x"}')
    (place / "inside").write("a.jsonl", '{"num": 2}\n{"num": 3}\n')
    assert (place / "inside").json("a.json", Record) == Record(2, "x")
    assert [record.num for record in (place / "inside").lines("a.jsonl", Record)] == [2, 3]
    assert [entry.name for entry in (place / "inside").entries()] == ["a.json", "a.jsonl"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "recursion limit"),
        (b'{"num": ' * 100_000, "recursion limit|integer"),
        (b"null", "object"),
        (b"", "EOF"),
        (b'{"num": "2"}', "num: Input should be a valid integer"),
        (b'{"num": 1.5}', "num"),
        (b'{"num": NaN}', "expected value"),
        (b'{"num": 1, "more": 2}', "more"),
        (b'{"num": ' + b"9" * 5000 + b"}", "num"),
        (b"\xff\xfe", "Invalid|expected"),
        (b'{"num": 1, "name": "\\ud800"}', "name|surrogate|escape"),
    ],
)
def test_a_record_that_is_none_is_named_with_the_value(place: Place, text: bytes, words: str) -> None:
    place.write("a.json", text)
    with pytest.raises(BadFileError, match=words) as raised:
        place.json("a.json", Record)
    assert raised.value.path == place.path / "a.json"
    with pytest.raises(BadFileError, match="line 2"):
        parse(text, Record, place.path, line=2)


def test_nan_is_no_value_whatever_the_type() -> None:
    with pytest.raises(BadFileError):
        parse(b'{"a": NaN}', dict[str, Any], Path("a"))
    assert parse(b'{"a": "NaN"}', dict[str, Any], Path("a")) == {"a": "NaN"}


@pytest.mark.parametrize("number", ["1e999", "-1E+400", "0.5e400", "9" * 400 + ".5", "-" + "9" * 309 + "e0"])
@pytest.mark.parametrize("text", ["{}", '{{"a":{}}}', '{{"a": [1, {}], "NaN": "NaN"}}', '["{}x", {}]'])
def test_a_number_beyond_all_floats_is_no_value_whatever_the_type(number: str, text: str) -> None:
    with pytest.raises(BadFileError, match="beyond"):
        parse(text.replace("{}", number).replace("{{", "{").replace("}}", "}").encode(), Any, Path("a"))
    texts = [number, f"a{number}", "3e123" * 12 + "b4e567", "0.1e1"]
    assert parse(json.dumps(texts).encode(), list[str], Path("a")) == texts
    assert parse(b"[1.5e100, 3e-999]", list[float], Path("a")) == [1.5e100, 0.0]


def test_lines_are_values_one_by_one_however_they_are_read(place: Place) -> None:
    assert parse_lines([b'{"num": 1}', b'{"num": 2, "name": "x"}'], Record, Path("a")) == [Record(1), Record(2, "x")]
    assert parse_lines([], Record, Path("a")) == []
    for lines in ([b'{"num": 1}, {"num": 2}'], [b'{"num": 1}', b'{"num": 2'], [b'{"num": 1}, {"num":', b"2}"]):
        with pytest.raises(BadFileError, match=r"line [78]: "):
            parse_lines(lines, Record, Path("a"), first=7)


def test_a_pipe_a_device_a_folder_or_a_link_is_no_file_and_nothing_waits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.path)
    os.mkfifo("pipe")
    Path("zero").symlink_to("/dev/zero")
    Path("link").symlink_to("../victim/kept.json")
    Path("self").symlink_to("self")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket")
    for name in ("pipe", "zero", "link", "self", "socket", "inside"):
        with pytest.raises(BadFileError, match="where a file must be"):
            place.read(name)
    for name in ("pipe", "zero", "socket", "inside"):
        with pytest.raises(BadFileError, match="where a file must be"):
            read_bytes(place.path / name)
    assert read_bytes(Path("link")) == b'{"num": 1}'  # the user named it


def test_a_file_over_the_limit_is_not_read(place: Place) -> None:
    with (place.path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadFileError, match="over 67,108,864 bytes"):
        place.read("large")
    place.write("few", "12345")
    assert place.read("few", limit=5) == b"12345"
    with pytest.raises(BadFileError, match="over 4 bytes"):
        place.read("few", limit=4)


def test_no_link_on_the_way_is_followed_by_any_verb(place: Place, tmp_path: Path) -> None:
    (place.path / "out").symlink_to(tmp_path / "victim")
    out = place / "out"
    for act in (
        out.entries,
        out.make,
        lambda: out.read("kept.json"),
        lambda: out.write("kept.json", "x"),
        lambda: out.create("new"),
        lambda: out.remove("kept.json"),
        lambda: out.move("kept.json", place),
        lambda: (place / "inside").move("a", out) if (place / "inside").write("a", "x") is None else None,
        lambda: (out / "deeper").make(),
    ):
        with pytest.raises(BadFileError, match="a link or another thing where a folder must be"):
            act()
    place.remove("out")
    assert (tmp_path / "victim" / "kept.json").read_text() == '{"num": 1}'
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["kept.json"]


def test_a_folder_that_is_removed_or_moved_takes_its_links_and_not_what_they_lead_to(
    place: Place, tmp_path: Path
) -> None:
    (place.path / "inside" / "out").symlink_to(tmp_path / "victim")
    assert place.move("inside", place / "quarantine" / "now", "other")
    place.remove("quarantine")
    place.remove("quarantine")
    assert not place.move("inside", place / "quarantine")
    assert place.entries() == []
    assert (tmp_path / "victim" / "kept.json").exists()


def test_a_file_is_written_whole_over_a_link_and_not_through_it(place: Place, tmp_path: Path) -> None:
    (place.path / "a").symlink_to(tmp_path / "victim" / "kept.json")
    place.write("a", b"new")
    assert place.read("a") == b"new"
    with pytest.raises(FileExistsError):
        place.create("a")
    assert (tmp_path / "victim" / "kept.json").read_text() == '{"num": 1}'


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", ".a", "a\n", "a\x1b[2J", "\0", "é" * 121])
def test_what_is_not_one_plain_name_is_refused(place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        checked_name(name)
    assert "\x1b" not in printable(name)


def test_a_name_may_have_any_letters(place: Place) -> None:
    assert checked_name("Müller 3 (a),b.png") == "Müller 3 (a),b.png"
    for name in ("..", "a/b", "", "\0"):
        with pytest.raises(ValueError, match="not one name"):
            place.read(name)
