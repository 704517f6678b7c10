"""The image in which a run works: an opaque text that whoever starts a process puts into its environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.door import BadFileError, Place

VARIABLE = "CXR_IMAGE_SHA256"

_OUTSIDE: ContextVar[bool] = ContextVar("outside", default=False)
"""Whether this process only works for an image, as a launcher does, and is not in it."""


def image() -> str:
    """sha256 of the image that this process runs in; empty outside of one."""
    return os.environ.get(VARIABLE, "")


def is_seen_from_outside() -> bool:
    """Whether this process works for an image in which it does not run: what is installed in there it cannot tell."""
    return _OUTSIDE.get()


@contextmanager
def working_in(sha256: str) -> Iterator[None]:
    """Work for the image `sha256`, though this process is not in it: a launcher's view."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = sha256
    token = _OUTSIDE.set(True)
    try:
        yield
    finally:
        _OUTSIDE.reset(token)
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def accept(run: Path) -> None:
    """Let the run at `run` go on in this image, whatever its stages were planned in."""
    known = accepted(run)
    if image() not in known:
        Place(run).write(FILE, "".join(f"{each or '-'}\n" for each in [*known, image()]))


def check(run: Path, stage: str, planned: str) -> None:
    """Raise UserError if a stage was planned in another image than this one, and nobody said that this is fine."""
    now = image()
    if now == planned or now in accepted(run):
        return
    raise UserError(
        f"stage {stage!r} was planned in {_spell(planned)}, and this is {_spell(now)}",
        where=str(run),
        hint="go on with the image of before, or say that this one is fine: --accept-image; receipts name their image",
    )


FILE = "accepted_images"


def accepted(run: Path) -> list[str]:
    """Images that somebody accepted for a run; "" stands for none."""
    try:
        lines = Place(run).read(FILE).decode().splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise BadFileError("damaged: no text", run / FILE) from error
    return ["" if line == "-" else line for line in lines]


def _spell(sha256: str) -> str:
    return f"image {sha256[:12]}" if sha256 else "no image"
