"""What others than an attempt recorded of its end: the batch shell, the log and the accounts. Readers, which judge
nothing.

The shell leaves `submits/<number>/<job>-<restart>.end` with one line where it saw more than a good end (see
slurm/script.py); who cancels a task that could not be launched leaves it in the shell's place. In the log are the words
of slurmstepd, which need no accounting and no scheduler that answers, and outlive both.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxr_core.runs.causes import BY_SHELL, cause_of_status
from cxr_core.runs.door import MIB, BadFileError, BadFiles, Place, below


@dataclass(frozen=True)
class ShellEnd:
    """How the shell of one start of a task saw it end: the `cause`, at `moment` (seconds since 1970).

    `status` is the exit status where it is known. `step` is what the task was at where Python had not begun.
    """

    submit: Path
    cause: str
    moment: float
    status: int | None = None
    step: str = ""


def shell_ends(stage_folder: Path) -> dict[tuple[str, int], ShellEnd]:
    """(Job, restart) -> how it ended, of all tasks of a stage whose shell left a record."""
    found = {}
    for folder in submit_places(stage_folder):
        for entry in folder.entries():
            job, _, restart = entry.name.removesuffix(".end").rpartition("-")
            if entry.name.endswith(".end") and _NUMBER.fullmatch(restart):
                with suppress(BadFileError):  # it is a second opinion, which `verify` lists
                    found[job, int(restart)] = _shell_end(folder, entry.name)
    return found


_NUMBER = re.compile("[0-9]{1,9}")


def _shell_end(folder: Place, name: str) -> ShellEnd:
    # WHAT SECONDS, and where Python had not begun: start SECONDS STATUS STEP.
    with folder.open(name) as file:
        text, moment = file.read(_LONGEST_END).decode(errors="replace"), os.fstat(file.fileno()).st_mtime
    word, _, status, step = [*text.split(maxsplit=3), "", "", "", ""][:4]
    if word == "start" and _NUMBER.fullmatch(status):
        return ShellEnd(folder.path, cause_of_status(int(status)), moment, int(status), step.strip())
    if _NUMBER.fullmatch(word):
        return ShellEnd(folder.path, cause_of_status(int(word)), moment, int(word))
    return ShellEnd(folder.path, BY_SHELL.get(word, ""), moment)


_LONGEST_END = 4096
"""Bytes that the shell writes at most."""


def note_failed_launch(submit_folder: Path, task: str, restart: int) -> None:
    """Leave the record of a task whose launch failed and which will not be tried again: no shell of it ever ran."""
    below(submit_folder, 3).write(f"{task}-{restart}.end", "launch")


def submit_places(stage_folder: Path) -> list[Place]:
    """The folders of all submits of a stage, in order."""
    submits = below(stage_folder, 1) / "submits"
    return [submits / entry.name for entry in submits.entries() if entry.is_folder]


def scheduler_logs(stage_folder: Path, job: str) -> list[Path]:
    """The logs of a job: of an element of an array ("12_3"), or of a job without elements ("12")."""
    # Asked for by name: a listing of all logs for each of a thousand killed tasks would take minutes.
    names = (f"{job}.out", f"{job}_0.out")
    return [folder.path / name for folder in submit_places(stage_folder) for name in names if folder.is_file(name)]


def text_of_log(path: Path) -> str:
    """The end of `<stage>/submits/<number>/<task>.out`, however long it is; empty where it is no log."""
    folder = below(path.parent, 3)
    return BadFiles().read(lambda: folder.tail(path.name, limit=_LONGEST_LOG), "")


_LONGEST_LOG = 16 * MIB


def cause_in_log(stage_folder: Path, job: str, started: float, until: float = float("inf")) -> str:
    """Why the scheduler ended the start of a job at `started`, the next one being at `until`: seconds since 1970.

    Returns "time limit", "preemption", "cancelled", "requeued: a shard was not done in time" ... or "" where the log
    does not tell.
    """
    for path in scheduler_logs(stage_folder, job):
        for moment, cause in _ends_in(text_of_log(path)):
            if int(started) <= moment <= until:
                return cause
    return ""


_LINE = re.compile(
    r"^requeue \S+: (?P<asked>.+)$"
    r"|\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT (?P<when>[\dT:-]+)(?: DUE TO (?P<cause>.+?))? \*\*\*",
    re.MULTILINE,
)
"""The shell's line, and slurmstepd's, which follows it; its time is the node's, without a zone."""


def _ends_in(text: str) -> Iterator[tuple[float, str]]:
    asked = ""
    for match in _LINE.finditer(text):
        if match["when"] is None:
            asked = match["asked"]
            continue
        cause = (match["cause"] or "cancelled").lower().removeprefix("job ")
        yield _moment(match["when"]), _requeued(asked) if cause == "requeue" else cause
        asked = ""


def _requeued(asked: str) -> str:
    return f"requeued: {asked}" if asked else "requeued from outside"


def _moment(text: str) -> float:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
