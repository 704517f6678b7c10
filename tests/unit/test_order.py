"""The order of the tests, and which of them `make check` leaves out."""

from pathlib import Path
from typing import Any

import pytest

from tests import order
from tests.conftest import REPOSITORY

LISTED = {"tests/unit/test_a.py::test_long": 2.0, "tests/unit/test_b.py": 3.0}


@pytest.mark.parametrize(
    ("nodeid", "fixtures", "slow"),
    [
        ("tests/unit/test_a.py::test_short", ["tmp_path"], False),
        ("tests/unit/test_a.py::test_long_names", [], False),
        ("tests/unit/test_a.py::test_long", [], True),
        ("tests/unit/test_a.py::test_long[1-b::c]", [], True),
        ("tests/unit/test_b.py::test_any", [], True),
        ("tests/unit/test_a.py::test_short", ["undisturbed"], True),
        ("tests/local/test_a.py::test_short", [], True),
    ],
)
def test_given_where_a_test_is_and_what_it_needs_then_it_is_slow_or_not(
    nodeid: str, fixtures: list[str], slow: bool
) -> None:
    assert order.is_slow(nodeid, fixtures, LISTED) == slow


def test_slow_json_lists_nothing_that_is_no_more() -> None:
    left = order.gone(order.read(order.SLOW), REPOSITORY)
    assert not left, "renamed or removed: `python -m tests.order` drops them"


def test_given_a_renamed_test_or_file_then_it_is_found_to_be_no_more(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("class TestIt:\n    def test_x(self): ...\ndef test_y(): ...\n")
    listed = ["test_a.py", "test_a.py::TestIt::test_x", "test_a.py::test_y", "test_a.py::test_z", "test_b.py::test_y"]
    assert order.gone(listed, tmp_path) == {"test_a.py::test_z", "test_b.py::test_y"}


def ran(nodeid: str, when: str, duration: float) -> Any:
    return pytest.TestReport(
        nodeid,
        (order.file_of(nodeid), 1, ""),
        {},
        "passed",
        None,
        when,
        duration=duration,  # type: ignore[arg-type]
    )


def test_given_a_measured_run_then_slow_tests_slow_fixtures_and_the_seconds_of_files_are_written(
    tmp_path: Path,
) -> None:
    seconds, slow = tmp_path / "durations.json", tmp_path / "slow.json"
    order.write(seconds, {"tests/unit/test_a.py": 9.0, "tests/unit/test_old.py": 4.0})
    order.write(slow, {"tests/unit/test_a.py::test_now_fast": 2.0, "tests/unit/test_old.py::test_it": 1.0})
    durations = order.Durations(seconds, slow)
    for nodeid, when, duration in (
        ("tests/unit/test_a.py::test_one[1]", "call", 0.4),
        ("tests/unit/test_a.py::test_one[2]", "call", 0.9),
        ("tests/unit/test_a.py::test_now_fast", "call", 0.2),
        ("tests/unit/test_b.py::test_two", "setup", 3.0),
        ("tests/local/test_c.py::test_three", "call", 8.0),
    ):
        durations.pytest_runtest_logreport(ran(nodeid, when, duration))
    durations.pytest_sessionfinish()
    assert order.read(slow) == {
        "tests/unit/test_a.py::test_one": 0.9,
        "tests/unit/test_b.py": 3.0,
        "tests/unit/test_old.py::test_it": 1.0,
    }
    assert order.read(seconds) == {
        "tests/unit/test_a.py": 1.5,
        "tests/unit/test_b.py": 3.0,
        "tests/local/test_c.py": 8.0,
        "tests/unit/test_old.py": 4.0,
    }
