"""Which file of tests runs when, and which tests are fast enough for every edit.

The longest files start first, so that no worker ends long after the others. A test is slow, and `make check` leaves it
out, if it is not in tests/unit, if it needs a whole run, or if slow.json lists it. Nobody edits the two lists by hand:
`CXR_TEST_DURATIONS=tests/durations.json make test` measures both anew, and `python -m tests.order` drops from
slow.json what is no more.
"""

import ast
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

MEASURED = Path(__file__).with_name("durations.json")
SLOW = Path(__file__).with_name("slow.json")
"""Tests of `FAST_FOLDER` that took over `FAST_SECONDS`, and files whose fixtures did: name -> seconds."""

FAST_FOLDER = "tests/unit/"
FAST_SECONDS = 0.5
WHOLE_RUNS = frozenset({"undisturbed"})
"""Fixtures that make a run of all stages: whoever asks first waits, so the seconds of the others say nothing."""


def longest_first(items: list[pytest.Item]) -> None:
    """Order the files of `items` by their measured seconds; files that were never measured come first."""
    seconds = read(MEASURED)
    items.sort(key=lambda item: -seconds.get(item.location[0], float("inf")))


def mark_slow(items: list[pytest.Item]) -> None:
    """Give the marker `slow` to all that `make check` leaves out."""
    listed = read(SLOW)
    for item in items:
        if is_slow(item.nodeid, getattr(item, "fixturenames", ()), listed):
            item.add_marker(pytest.mark.slow)


def is_slow(nodeid: str, fixtures: Collection[str], listed: Collection[str]) -> bool:
    """Whether a test is slow, by where it is, by what it needs, or because `listed` has it or its file."""
    return (
        not nodeid.startswith(FAST_FOLDER)
        or not WHOLE_RUNS.isdisjoint(fixtures)
        or not {name_of(nodeid), file_of(nodeid)}.isdisjoint(listed)
    )


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def name_of(nodeid: str) -> str:
    """A test without its parameters: those of one are as slow as one another, near enough."""
    return nodeid.partition("[")[0]


def read(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, seconds: Mapping[str, float]) -> None:
    ordered = dict(sorted(seconds.items(), key=lambda entry: -entry[1]))
    path.write_text(json.dumps(ordered, indent=1) + "\n")


class Durations:
    """A plugin that adds up the seconds of each file, and writes them where CXR_TEST_DURATIONS says, and slow.json.

    Files that did not run keep what stands there. Measure whole files: of a file that ran, slow.json forgets the rest.
    """

    def __init__(self, path: Path, slow: Path = SLOW) -> None:
        self._path, self._slow = path, slow
        self._seconds, self._longest = Counter[str](), dict[str, float]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.location[0]
        self._seconds[name] += report.duration
        measured = name if report.when == "setup" else name_of(report.nodeid)
        self._longest[measured] = max(self._longest.get(measured, 0.0), report.duration)

    def pytest_sessionfinish(self) -> None:
        write(self._path, read(self._path) | _rounded(self._seconds))
        here = {name: seconds for name, seconds in self._longest.items() if name.startswith(FAST_FOLDER)}
        kept = {name: seconds for name, seconds in read(self._slow).items() if file_of(name) not in self._seconds}
        write(self._slow, kept | _rounded({n: s for n, s in here.items() if s > FAST_SECONDS}))


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}


def register(config: pytest.Config) -> None:
    """Measure, if this process is asked to and is not a worker of another."""
    path = os.environ.get("CXR_TEST_DURATIONS")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(config.rootpath / path))


def gone(listed: Collection[str], root: Path) -> set[str]:
    """Entries of slow.json whose file or test is no more."""
    return {name for name in listed if not _is_there(root, *name.split("::"))}


def _is_there(root: Path, file: str, *names: str) -> bool:
    if not (root / file).is_file():
        return False
    found = {node.name for node in ast.walk(ast.parse((root / file).read_text())) if isinstance(node, _NAMED)}
    return found.issuperset(names)


_NAMED = (ast.FunctionDef, ast.ClassDef)


if __name__ == "__main__":
    listed = read(SLOW)
    write(SLOW, {name: listed[name] for name in listed.keys() - gone(listed, SLOW.parents[1])})
