"""Folders of models of our own: a small JSON file that says what the model is, and its weights as safetensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, sha256_file, sha256_text, write_json

FORMAT = 1

Info = TypeVar("Info")


@dataclass(frozen=True)
class ModelFolder(Generic[Info]):
    """The folders of one kind of model, `<name>.json` and `<name>.safetensors`; the dataclass `info` describes it."""

    name: str
    info: type[Info]

    @property
    def about(self) -> str:
        """Name of the small file."""
        return f"{self.name}.json"

    @property
    def weights(self) -> str:
        """Name of the file of weights."""
        return f"{self.name}.safetensors"

    def write_info(self, folder: Path, info: Info, about: Mapping[str, Any]) -> None:
        """Write the small file; `about` says how the model was trained, and on what."""
        write_json(folder / self.about, {"format": FORMAT, **asdict(info), "about": dict(about)})  # type: ignore[call-overload]

    def read_info(self, folder: Path) -> Info:
        """What the model in `folder` is. Raises UserError if its small file is missing, damaged or newer."""
        value = self._read(folder)
        known = {field.name: value.get(field.name) for field in fields(self.info)}  # type: ignore[arg-type]
        try:
            return TypeAdapter(self.info).validate_python(known)
        except ValidationError as error:
            first = error.errors()[0]
            raise damaged(folder / self.about, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def read_about(self, folder: Path) -> Mapping[str, Any]:
        """How the model in `folder` was trained, and on what."""
        return dict(self._read(folder).get("about", {}))

    def sha256(self, folder: Path) -> str:
        """`files_sha256` of its two files."""
        return files_sha256(folder, self.about, self.weights)

    def _read(self, folder: Path) -> dict[str, Any]:
        path = folder / self.about
        try:
            value = read_json(path)
            number = value["format"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise damaged(path, repr(error)) from error
        if number != FORMAT:
            hint = "train it again"
            raise UserError(f"format {number!r}, but this version reads {FORMAT}", where=str(path), hint=hint)
        return dict(value)


def damaged(path: Path, detail: str) -> UserError:
    return UserError(f"damaged ({detail})", where=str(path), hint="put the folder back from a copy, or train it again")


def files_sha256(folder: Path, *names: str) -> str:
    """Digest of some files of a folder: sha256 over their lines `name, NUL, sha256`, as in `sha256_path`."""
    return sha256_text("".join(f"{name}\0{sha256_file(folder / name)}\n" for name in names))
