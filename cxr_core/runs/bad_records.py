"""The records of a run that are not what they must be: all of them, by one table of what lies where."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from cxr_core.runs.accounting import FILE as ACCOUNTING
from cxr_core.runs.accounting import Accounting
from cxr_core.runs.attempt import End, Heartbeat
from cxr_core.runs.code import ACCEPTED, AcceptedCode, RunRecord
from cxr_core.runs.commit import Pruned
from cxr_core.runs.door import BadFiles, Place, parse
from cxr_core.runs.failures import Failure, Parked
from cxr_core.runs.image import FILE as ACCEPTED_IMAGES
from cxr_core.runs.resumes import FILE as RESUMES
from cxr_core.runs.resumes import FOLDER as AUTO_RESUME
from cxr_core.runs.resumes import OLD_FILE as OLD_RESUMES
from cxr_core.runs.resumes import AutoResume
from cxr_core.runs.run import Run, StageFolder
from cxr_core.runs.sources import OF_OLD_PLAN, RECORD, FrozenSources, SourcesRecord
from cxr_core.runs.submits import Submit

RecordReader = Callable[[Place, str], object]


def _of(kind: Any) -> RecordReader:
    return lambda place, name: place.json(name, kind)


def _of_attempt(kind: Any) -> RecordReader:
    """A power cut may leave it empty."""

    def read(place: Place, name: str) -> object:
        text = place.read(name)
        return parse(text, kind, place.path / name) if text else None

    return read


def _events(place: Place, name: str) -> object:
    """A crash may cut its last line short."""
    *lines, _ = place.read(name).split(b"\n")
    return [parse(line, dict, place.path / name, line=number) for number, line in enumerate(lines, 1)]


def _text(place: Place, name: str) -> object:
    return place.tail(name, limit=1)


_OF_STAGE: dict[str, RecordReader] = {
    "attempts/*/ended.json": _of_attempt(End),
    "attempts/*/heartbeat.json": _of_attempt(Heartbeat),
    "attempts/*/events.jsonl": _events,
    "attempts/*/log.jsonl": _text,
    "attempts/*/traceback.txt": _text,
    "attempts/*/failed/*.json": _of(Failure),
    "attempts/*/failed/*.txt": _text,
    "submits/*/submit.json": _of(Submit),
    "submits/*/*.end": _text,
    "submits/*/*.out": _text,
    "submits/*/*.jsonl": _text,
    "parked/*.json": _of(Parked),
    "parked/released/*.json": _of(Parked),
    "pruned/*.json": _of(Pruned),
    "quarantine/*": lambda place, name: None,
    RECORD: _of(SourcesRecord),
    OF_OLD_PLAN: _of(FrozenSources),
}

_OF_RUN: dict[str, RecordReader] = {
    "run.json": _of(RunRecord),
    ACCOUNTING: _of(Accounting),
    ACCEPTED: _of(AcceptedCode),
    ACCEPTED_IMAGES: _text,
    f"{AUTO_RESUME}/{RESUMES}": _of(AutoResume),
    f"{AUTO_RESUME}/{OLD_RESUMES}": _of(AutoResume),
    f"{AUTO_RESUME}/submits/*/submit.json": _of(Submit),
    f"{AUTO_RESUME}/submits/*/*.end": _text,
    f"{AUTO_RESUME}/submits/*/*.out": _text,
}


def bad_records_of_stage(folder: StageFolder) -> BadFiles:
    """Beside its plan, receipts, data and stage.json, which `verify` compares with one another."""
    return _bad(folder.place, _OF_STAGE)


def bad_records_of_run(run: Run) -> BadFiles:
    """The files beside the stages."""
    return _bad(run.place, _OF_RUN)


def _bad(place: Place, table: dict[str, RecordReader]) -> BadFiles:
    bad = BadFiles()
    for pattern, read in table.items():
        for found, name in _matching(place, pattern.split("/"), bad):
            bad.read(partial(read, found, name), None)
    return bad


def _matching(place: Place, pattern: list[str], bad: BadFiles) -> Iterator[tuple[Place, str]]:
    """Place and name of what lies where the pattern says; hidden names are temporary."""
    first, *rest = pattern
    entries = bad.read(place.entries, [])
    names = [entry for entry in entries if fnmatchcase(entry.name, first) and entry.name[0] != "."]
    for entry in names:
        if not rest:
            yield place, entry.name
        elif entry.is_folder or "*" not in first:
            yield from _matching(place / entry.name, rest, bad)
