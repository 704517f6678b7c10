"""Files outside of a run that its stages read. They are frozen by content: a stage goes on only if they are the same.

A file whose size and times are as recorded is believed to be the same; any other is read, and its sha256 decides. So a
copy or a touched file is no change, and looking costs one `stat` a file.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict

from cxr_core.errors import UserError
from cxr_core.runs.door import STRICT, BadFileError, Place, below
from cxr_core.runs.files import json_text, read_json, sha256_file, sha256_text
from cxr_core.runs.plan import Plan

RECORD = "sources.json"
"""In a stage's folder: what is known of its files."""

GONE = ""
"""In place of a sha256: there is no such file."""

OF_OLD_PLAN = "frozen_sources.json"

_NOT_READ = {"attempts", "submits", "receipts", "quarantine", "pruned"}
"""Folders of a stage of another run that nobody reads who is given the stage."""

NO_PLAN = "the plan cannot be made anew"
"""Begins the line about inputs of which nothing can be made."""


@dataclass(frozen=True)
class FileState:
    """A file as it was seen: its size, its times in nanoseconds and its sha256. `stands_for` is the sha256 that was
    frozen, where another file was found to mean the same."""

    size: int
    modified: int
    changed: int
    sha256: str
    stands_for: str = ""

    @property
    def frozen(self) -> str:
        """The sha256 that it counts as."""
        return self.stands_for or self.sha256

    def is_of(self, found: os.stat_result) -> bool:
        return (self.size, self.modified, self.changed) == (found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass
class KnownFiles:
    """The files that a stage reads, as they were last seen; and those that other stages of its run saw."""

    stage: Path
    own: dict[str, FileState] = field(default_factory=dict)
    others: dict[str, FileState] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: Path) -> "KnownFiles":
        """What the stage in this folder and its neighbours recorded."""
        others: dict[str, FileState] = {}
        run = Place(stage.parent)
        for entry in run.entries():
            others |= _read(run / entry.name) if entry.is_folder and entry.name != stage.name else {}
        return cls(stage, _read(below(stage, 1)), others)

    def digest(self, path: Path, told: str = "") -> str:
        """The sha256 that the file at `path` counts as; GONE where it is not there. `told`: its sha256, if known."""
        name = str(path)
        try:
            found = path.stat()
        except OSError:
            return GONE
        state = self.own.get(name)
        if state is None or not state.is_of(found):
            self.own[name] = self._seen(path, found, state, told)
        return self.own[name].frozen

    def _seen(self, path: Path, found: os.stat_result, before: FileState | None, told: str) -> FileState:
        other = self.others.get(str(path))
        sha256 = other.sha256 if other and other.is_of(found) else ""
        sha256 = sha256 or (told if before is None else "") or _hash(path)
        stands_for = before.stands_for if before and before.sha256 == sha256 else ""
        return FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, sha256, stands_for)

    def accept_as_equal(self, frozen: Mapping[str, str]) -> None:
        """Files that are others than frozen were found to mean the same."""
        for name, sha256 in frozen.items():
            state = self.own.get(name)
            if state is not None and state.frozen != sha256:
                self.own[name] = FileState(state.size, state.modified, state.changed, state.sha256, sha256)

    def write(self) -> None:
        """Record what was seen, if there is any and it is new."""
        place = below(self.stage, 1)
        if self.own and self.own != _read(place):
            files = {name: astuple(state) for name, state in sorted(self.own.items())}
            place.write(RECORD, json_text({"format": 1, "files": files}))


class SourcesRecord(TypedDict):
    """sources.json: path -> the values of its `FileState`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    files: dict[str, tuple[int, int, int, str, str]]


class FrozenSources(TypedDict):
    """frozen_sources.json: path -> sha256."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    files: dict[str, str]


def _read(stage: Place) -> dict[str, FileState]:
    try:
        return {name: FileState(*values) for name, values in stage.json(RECORD, SourcesRecord)["files"].items()}
    except (FileNotFoundError, BadFileError):
        return {}  # it only spares reading files again


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", where=str(path), hint="check your right to read it, then run again"
        ) from error


def files_named(settings: BaseModel) -> list[Path]:
    """Every file that settings name, and the files of every folder that they name."""
    return sorted({file for path in paths_named(settings) for file in (files_below(path) if path.is_dir() else [path])})


def paths_named(value: Any) -> Iterator[Path]:
    """The paths in settings, at any depth."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from paths_named(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from (path for each in value.values() for path in paths_named(each))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from (path for each in value for path in paths_named(each))


def files_below(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones, records of how a stage was made, and states of training."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        skipped = _NOT_READ if Path(parent) == folder else set()
        folders[:] = sorted(
            name for name in folders if name not in skipped and name[0] != "." and not name.endswith(".state")
        )
        found += [Path(parent, name) for name in names if name[0] != "." and name != RECORD]
    return sorted(found)


def files_of_model(folder: Path) -> list[Path]:
    """The files of a model's folder; of one with model_index.json only that and what it names."""
    index = folder / "model_index.json"
    if not index.is_file():
        return files_below(folder)
    parts = [folder / name for name in sorted(read_json(index)) if (folder / name).is_dir()]
    return [index, *(file for part in parts for file in files_below(part))]


def digest_of(folder: Path, known: KnownFiles) -> tuple[str, dict[str, str]]:
    """Of a folder that is no Dataset: one digest of its files by their content, and each file's."""
    files = {str(path): known.digest(path) for path in files_of_model(folder)}
    lines = (f"{Path(name).relative_to(folder).as_posix()}\0{sha256}\n" for name, sha256 in files.items())
    return sha256_text("".join(lines)), files


def changed_files(frozen: Mapping[str, str], now: Mapping[str, str], *, is_finished: bool) -> list[str]:
    """The files that are not as frozen, a line each. What a finished stage was made of may be put away: files that are
    gone with their folder, or one and all, are no change."""
    names = sorted(name for name in frozen if frozen[name] != now.get(name, GONE))
    gone = {name for name in names if now.get(name, GONE) == GONE}
    if is_finished:
        away = gone if len(gone) == len(frozen) else {name for name in gone if not Path(name).parent.is_dir()}
        names = [name for name in names if name not in away]
    return [f"{name}: {_what(frozen[name], now.get(name, GONE))}" for name in names]


def _what(before: str, now: str) -> str:
    if not now:
        return "is gone"
    return f"has changed (sha256 {before[:12]} -> {now[:12]})" if before else f"was not there (sha256 {now[:12]})"


def frozen_files(stage: Path, plan: Plan) -> dict[str, str] | None:
    """Path -> sha256 of the files that a plan was frozen for. Of a plan from before this was in plans: as they were
    when that was first asked, or None if it never was."""
    if not plan.is_old:
        return dict(plan.parts["files"])
    try:
        return below(stage, 1).json(OF_OLD_PLAN, FrozenSources)["files"]
    except FileNotFoundError:
        return None


def freeze_files(stage: Path, files: Mapping[str, str]) -> None:
    """Take the files of now for those that an old plan was frozen for."""
    below(stage, 1).write(OF_OLD_PLAN, json_text({"format": 1, "files": dict(files)}))


def hash_files(known: KnownFiles, paths: Iterable[Path]) -> dict[str, str]:
    """Path -> the sha256 that the file counts as."""
    return {str(path): known.digest(path) for path in paths}
