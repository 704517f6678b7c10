"""The folder of a trained classifier, as far as it can be read without torch: what it knows, and its digest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, sha256_file, sha256_text, write_json

FORMAT = 1
ABOUT, WEIGHTS = "classifier.json", "classifier.safetensors"


@dataclass(frozen=True)
class ClassifierInfo:
    """A classifier's size and what it tells: logit i is of `findings[i]`; images have `image_size` pixels a side."""

    preset: str
    image_size: int
    findings: tuple[str, ...]
    feature_width: int


def write_info(folder: Path, info: ClassifierInfo, about: Mapping[str, Any]) -> None:
    """Write `classifier.json`; `about` says what the classifier was trained on."""
    write_json(folder / ABOUT, {"format": FORMAT, **asdict(info), "about": dict(about)})


def read_info(folder: Path) -> ClassifierInfo:
    """What the classifier in `folder` is. Raises UserError if its classifier.json is missing, damaged or newer."""
    value = _read(folder)
    fields = {name: value.get(name) for name in ClassifierInfo.__dataclass_fields__}
    try:
        return _INFO.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(folder / ABOUT, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def read_about(folder: Path) -> Mapping[str, Any]:
    """What the classifier in `folder` was trained on: the Dataset's digest, steps, images and patients per finding."""
    return dict(_read(folder).get("about", {}))


def classifier_sha256(folder: Path) -> str:
    """Digest of a classifier: sha256 over the lines `name, NUL, sha256` of its two files, as in `sha256_path`."""
    return sha256_text("".join(f"{name}\0{sha256_file(folder / name)}\n" for name in (ABOUT, WEIGHTS)))


def damaged(path: Path, detail: str) -> UserError:
    return UserError(f"damaged ({detail})", where=str(path), mend="put the folder back from a copy, or train it again")


_INFO = TypeAdapter(ClassifierInfo)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        value = read_json(path)
        number = value["format"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(path, repr(error)) from error
    if number != FORMAT:
        raise UserError(f"format {number!r}, but this version reads {FORMAT}", where=str(path), mend="train it again")
    return dict(value)
