"""Which pages are written by which function."""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.tools import commands, measured, run_folder, settings

REPOSITORY = Path(__file__).resolve().parents[2]

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/commands.md": commands.page,
    "reference/config.md": settings.config_page,
    "reference/metrics.md": settings.metrics_page,
    "reference/run-folder.md": run_folder.page,
    "measured.md": measured.page,
}
"""Path below docs/ -> what makes its text."""
