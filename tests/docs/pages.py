"""The pages that people read."""

import subprocess
from pathlib import Path

from docs.tools.pages import PAGES, REPOSITORY

BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "containers/README.md")
"""Pages outside of docs/."""


def pages() -> list[Path]:
    """All of them that git knows, or that are about to be."""
    asked = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "docs")
    listed = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.split("\0")
    below = [REPOSITORY / name for name in listed if name.endswith(".md")] or sorted(
        (REPOSITORY / "docs").rglob("*.md")
    )
    return [page for page in (*(REPOSITORY / name for name in BESIDE), *below) if page.is_file()]


def name(page: Path) -> str:
    """Of a page, from the repository's root."""
    return str(page.relative_to(REPOSITORY))


def is_written_by_a_program(page: Path) -> bool:
    """Whether `python -m docs.tools` writes it."""
    return name(page).removeprefix("docs/") in PAGES
