"""Core library: images, prompts, models, metrics and files. Knows no scheduler and no container.

In a notebook: `from cxr_core import open_run, open_dataset, open_model` (see docs/notebooks.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_core.api import OpenedDataset, OpenedRun, open_dataset, open_model, open_run
    from cxr_core.errors import UserError

__version__ = "0.2.0"
"""Of the release that CHANGELOG.md names last. It is in every receipt, with the commit beside it."""

__all__ = ["OpenedDataset", "OpenedRun", "UserError", "__version__", "open_dataset", "open_model", "open_run"]


def __getattr__(name: str) -> Any:
    """Load what a notebook asks for when it does: the commands, which import this first, must start at once."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cxr_core.errors" if name == "UserError" else "cxr_core.api"), name)


def __dir__() -> list[str]:
    """Of what a notebook completes at a tab too."""
    return sorted({*globals(), *__all__})
