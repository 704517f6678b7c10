"""The folder of a trained localiser, as far as it can be read without torch: what it finds, and its digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cxr_core.models.folder import damaged, files_sha256
from cxr_core.runs.door import read_bytes
from cxr_core.runs.files import write_json
from cxr_core.settings import Settings

ABOUT, WEIGHTS = "localiser.json", "localiser.safetensors"
STRIDE = 4
"""Pixels of the image, as it is seen, to a point of the maps."""
NUM_PARAMETERS = 459_568
"""Without the maps, each of which has 65."""


class LocaliserInfo(Settings):
    """The whole of localiser.json: map i is of `findings[i]`; images have `image_size` pixels a side."""

    format: Literal[1] = 1
    """Version of this form."""
    image_size: int
    """Pixels a side that it sees."""
    findings: tuple[str, ...]
    """In the order of its maps."""
    prior: dict[str, str]
    """Of each finding the cell of the grid that most of its training boxes have, in words of the image's frame: what
    who knows no image would guess."""
    dataset: str
    """Digest of the Dataset that it learnt from."""
    num_boxes: dict[str, int]
    """Training boxes of each finding."""
    about: Mapping[str, Any]
    """Steps, and training images and patients with a box."""


def write_info(folder: Path, info: LocaliserInfo) -> None:
    write_json(folder / ABOUT, info.model_dump(mode="json"))


def read_info(folder: Path) -> LocaliserInfo:
    """What the localiser in `folder` is. Raises UserError if its localiser.json is missing, damaged or newer."""
    try:
        return LocaliserInfo.model_validate_json(read_bytes(folder / ABOUT))
    except (OSError, ValidationError) as error:
        raise damaged(folder / ABOUT, str(error)) from error


def localiser_sha256(folder: Path) -> str:
    """Digest of a localiser: `files_sha256` of its two files."""
    return files_sha256(folder, ABOUT, WEIGHTS)
