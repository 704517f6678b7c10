"""Patients by keyed hashes: what may leave tells whom a model learnt from to those alone who hold the key.

A keyed name is `keyed:<key's id>:<HMAC-SHA256 of the patient>`. A plain hash would not do: ChestX-ray14 has 30,805
patients, and a program tries all their numbers in a second. `UNNAMED` stands where not even that is told.
"""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from cxr_core.boundary import FEWEST_PATIENTS
from cxr_core.data.identity import patient_key
from cxr_core.errors import UserError
from cxr_core.runs.door import STRICT, BadFileError, read_bytes, read_json
from cxr_core.runs.files import write_json

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset

VARIABLE = "CXR_PATIENT_KEY"
"""Names the file of the key where it is not the user's own."""
FILE = "patients.json"
"""Beside a synthetic Dataset's dataset.json: who the patients are that it does not name. It stays in the run."""
PREFIX = "keyed:"
UNNAMED = PREFIX
_BYTES = 32


@dataclass(frozen=True)
class PatientKey:
    """A secret of the user or the group."""

    secret: bytes

    @property
    def start(self) -> str:
        """What all names that it makes begin with."""
        return f"{PREFIX}{hashlib.sha256(b'id of ' + self.secret).hexdigest()[:8]}:"

    def name(self, patient: str) -> str:
        """The keyed name of a patient, equal for all spellings of `patient_key`; what is one already stays."""
        if patient.startswith(PREFIX):
            return patient
        return self.start + hmac.new(self.secret, patient_key(patient).encode(), hashlib.sha256).hexdigest()[:32]


def key_path() -> Path:
    """Where the key lies: outside of every run. Raises UserError where there is no home."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    given = os.environ.get(VARIABLE) or f"{config}/cxr-suite/patient.key"
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise UserError("there is no such home folder for the key of patients", where=given, hint=_NAME_IT) from error


_NAME_IT = f"name a file of your own in {VARIABLE}"


def find_key() -> PatientKey | None:
    """The key, if there is one. Raises BadFileError if another user may have written or read it, or if it is none."""
    path = key_path()
    try:
        about = path.stat()
        text = read_bytes(path, limit=1024)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadFileError(f"the key of patients cannot be read ({error.strerror})", path, _NAME_IT) from error
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise BadFileError("the key of patients is not yours alone", path, "it must be yours: `chmod 600` and `chown`")
    try:
        secret = bytes.fromhex(text.decode().strip())
    except ValueError:
        secret = b""
    if len(secret) != _BYTES:
        raise BadFileError("no key of patients: 64 hexadecimal digits", path, "put it back from a copy, or remove it")
    return PatientKey(secret)


def key() -> PatientKey:
    """The key, made if there is none. Raises UserError as `find_key`, or where it cannot be written."""
    if found := find_key():
        return found
    path = key_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as file:  # mode 0600
            file.write(f"{secrets.token_hex(_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)  # whole, or not at all
    except FileExistsError:
        pass  # of another process that was faster
    except OSError as error:
        what = f"the key of patients cannot be written ({error.strerror})"
        raise UserError(what, where=str(path), hint=_NAME_IT) from error
    if found := find_key():
        return found
    raise UserError("the key of patients is a link that leads nowhere", where=str(path), hint="remove it")


class _Names(TypedDict):
    """The whole of patients.json."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    access: str
    moved: list[str]


def unnamed(patient: str) -> str:
    """What a synthetic Dataset says in place of a patient; a keyed name stays."""
    return patient if patient.startswith(PREFIX) else UNNAMED


def enough(names: tuple[str, ...], name: Callable[[str], str]) -> tuple[str, ...]:
    """Names by `name`, with those of nobody beside them where they are so few that their number would tell."""
    if not names or UNNAMED in names:
        return names
    nobody = (name(f"nobody {i} beside {' '.join(names)}") for i in range(FEWEST_PATIENTS - len(names)))
    return tuple(sorted({*names, *nobody}))


def write_names(folder: Path, patients: Iterable[str]) -> None:
    """Write who they are whom a synthetic Dataset does not name, if there are any; the file is for its owner alone."""
    if named := sorted(name for name in set(patients) if not name.startswith(PREFIX)):
        write_json(folder / FILE, {"format": 1, "access": "patient", "moved": named})
        (folder / FILE).chmod(0o600)


def with_names(folder: Path, moved: Iterable[str]) -> frozenset[str]:
    """`moved` of the synthetic Dataset in `folder`, with the names from its own record where that is there."""
    names = frozenset(moved)
    if UNNAMED not in names or not (folder / FILE).exists():
        return names
    return (names - {UNNAMED}) | {*read_json(folder / FILE, _Names)["moved"]}


def who(names: frozenset[str], real: "Dataset") -> frozenset[str]:
    """The patients of a real Dataset, as plain names, on whom no test may be made.

    Keyed names are found with the key. Where that is lacking, every test patient with a bounding box is taken: moved
    were such patients alone. Raises UserError where no box tells who they are.
    """
    plain = frozenset(name for name in names if not name.startswith(PREFIX))
    hidden = names - plain
    if not hidden:
        return plain
    mine = find_key()
    if mine and all(name.startswith(mine.start) for name in hidden):
        return plain | {patient for patient in real.rows["patient_id"].unique() if mine.name(patient) in hidden}
    test = real.of_split("test")
    boxed = frozenset(test.loc[[len(boxes) > 0 for boxes in test["boxes"]], "patient_id"])
    if not boxed and len(test):
        raise UserError(
            "the generator learnt from official test patients whom it names by a keyed hash, and nothing tells here "
            "who they are: no test can be made on unseen patients",
            where=str(real.folder),
            hint=f"name the file of the key in {VARIABLE}, or preprocess with the list of boxes, so that all patients "
            "with a box can be left out",
        )
    return plain | boxed
