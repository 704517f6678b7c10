"""Which file of tests runs when: the longest first, so that no worker ends long after the others.

`CXR_TEST_DURATIONS=tests/durations.json make test` measures the files anew.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

MEASURED = Path(__file__).with_name("durations.json")


def longest_first(items: list[pytest.Item]) -> None:
    """Order the files of `items` by their measured seconds; files that were never measured come first."""
    seconds = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    items.sort(key=lambda item: -seconds.get(item.location[0], float("inf")))


class Durations:
    """A plugin that adds up the seconds of each file, and writes them where CXR_TEST_DURATIONS says.

    Files that did not run keep what stands there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._seconds = path, Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.location[0]] += report.duration

    def pytest_sessionfinish(self) -> None:
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        found |= {name: round(seconds, 1) for name, seconds in self._seconds.items()}
        ordered = dict(sorted(found.items(), key=lambda entry: -entry[1]))
        self._path.write_text(json.dumps(ordered, indent=1) + "\n")


def register(config: pytest.Config) -> None:
    """Measure, if this process is asked to and is not a worker of another."""
    path = os.environ.get("CXR_TEST_DURATIONS")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(config.rootpath / path))
