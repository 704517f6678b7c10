"""The folder of a trained localiser, as far as it can be read without torch: what it finds, and its digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cxr_core.errors import UserError
from cxr_core.runs.files import sha256_file, sha256_text, write_json
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
        return LocaliserInfo.model_validate_json((folder / ABOUT).read_bytes())
    except (OSError, ValidationError) as error:
        raise damaged(folder / ABOUT, str(error)) from error


def localiser_sha256(folder: Path) -> str:
    """Digest of a localiser: sha256 over the lines `name, NUL, sha256` of its two files, as in `sha256_path`."""
    return sha256_text("".join(f"{name}\0{sha256_file(folder / name)}\n" for name in (ABOUT, WEIGHTS)))


def damaged(path: Path, detail: str) -> UserError:
    return UserError(f"damaged ({detail})", where=str(path), mend="put the folder back from a copy, or train it again")
