import subprocess
from pathlib import Path

import pytest

from containers.build import origin


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("https://git.example.org/cxr/suite.git", "https://git.example.org/cxr/suite.git"),
        ("https://me:secret@git.example.org/cxr/suite.git", "https://git.example.org/cxr/suite.git"),
        ("git@git.example.org:cxr/suite.git", "git@git.example.org:cxr/suite.git"),
        (None, "unknown"),
    ],
)
def test_an_image_names_where_its_checkout_came_from_and_no_password(
    url: str | None, label: str, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    if url:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", url], check=True)
    assert origin(tmp_path) == label
