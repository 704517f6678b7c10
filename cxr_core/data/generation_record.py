"""What the index says of how a synthetic image was made: the column `generation`, JSON."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.runs.door import BadFileError, parse

_Count = Annotated[int, Field(ge=0, le=1 << 20)]


class GateRecord(TypedDict, total=False):
    """What the gate said: see `generation.gate.Gatekeeper.record`."""

    draws: _Count
    passed: bool | None
    margin: float | None
    scores: dict[str, float] | None


class _Record(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    model: str
    threads: Annotated[int, Field(ge=1, le=4096)]
    batch_size: _Count
    draw: _Count
    gate: GateRecord


class Made(dict[str, Any]):
    """The record of one image. An entry that is needed and missing is a UserError naming the image."""

    def __init__(self, values: Any, image_id: str, path: Path) -> None:
        super().__init__(values)
        self._image_id, self._path = image_id, path

    def __missing__(self, name: str) -> Any:
        what = f"image {self._image_id!r}: `generation` does not tell {name!r}"
        raise UserError(what, where=str(self._path), hint="restore the Dataset as its run wrote it")


def made_of(text: str, image_id: str, folder: Path) -> Made:
    """The record of an image of the Dataset in `folder`; empty for a real one. Raises BadFileError naming the image."""
    path = folder / "index.parquet"
    try:
        return Made(parse(text.encode(), _Record, path) if text else {}, image_id, path)
    except BadFileError as error:
        raise BadFileError(f"image {image_id!r}: `generation`: {error.what}", path) from error
