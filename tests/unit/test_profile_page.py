"""docs/cluster-profile.md tells of each key of a profile, once, and its examples are valid."""

import re
from pathlib import Path

import pytest

from slurm.profile import ClusterProfile, load_profile
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "cluster-profile.md").read_text()


def test_each_key_stands_in_one_row_of_the_page() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(set(ClusterProfile.model_fields) - {"name", "stages"})
    assert "`stages:`" in PAGE


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_each_example_is_a_valid_profile(example: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(example)
    load_profile(tmp_path / "site.yaml")
