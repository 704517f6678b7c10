"""Core library: images, prompts, models, metrics and files. Knows no scheduler and no container."""

__version__ = "0.2.0"
"""Of the release that CHANGELOG.md names last. It is in every receipt, with the commit beside it."""
