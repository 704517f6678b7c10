"""Another user of this machine, for real: a child process of another uid. Needs root."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

UID = 65534

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="another user's part is played by a child process: needs root"
)


def as_stranger(act: Callable[[], Any]) -> Any:
    """What `act` returns (as JSON) when a process of another user calls it; of an error, the name of its class."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        answer: Any = "never ran"
        try:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)
            answer = act()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            answer = type(error).__name__
        finally:
            os.write(writes, json.dumps(answer).encode())
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="cxr-hostile-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
