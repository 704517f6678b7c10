"""How long the kernel lets the holder of a lease on a file keep it while somebody waits: one setting of the machine."""

from pathlib import Path

import pytest

_SETTING = Path("/proc/sys/fs/lease-break-time")
_KEY = pytest.StashKey[str]()


def be_patient(seconds: int = 1200) -> None:
    """Let holders keep them for so long. Only root may say so."""
    _SETTING.write_text(str(seconds))


def remember(config: pytest.Config) -> None:
    """Note what the machine has, in the one process that outlives all workers."""
    if not hasattr(config, "workerinput") and _SETTING.exists():
        config.stash[_KEY] = _SETTING.read_text()


def restore(config: pytest.Config) -> None:
    """Put back what the machine had."""
    before = config.stash.get(_KEY, "")
    if before and _SETTING.read_text() != before:
        _SETTING.write_text(before)
