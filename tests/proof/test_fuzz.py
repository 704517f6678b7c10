"""The readers' fuzzing of tests/hostile with many more examples: CXR_FUZZ_EXAMPLES of each, 2000 if it is not set."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.proof


def test_every_reader_gives_a_value_or_a_clear_error() -> None:
    environment = {"CXR_FUZZ_EXAMPLES": "2000", **os.environ}
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "tests/hostile/test_fuzz.py"]
    assert subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode == 0
