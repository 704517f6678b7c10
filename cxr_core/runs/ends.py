"""Why tasks ended that could not say it themselves: by their batch shell, their log and the accounts.

The shell leaves `submits/<number>/<job>-<restart>.end` with one line where it saw more than a good end (see
slurm/script.py); who cancels a task that could not be launched leaves it in the shell's place.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxr_core.runs.door import BadFileError, Place, below

MISSING = 69
"""Exit status of a task that lacks what others were to make (EX_UNAVAILABLE of sysexits.h)."""

OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
HUNG = "hung"
TOLD_TO_END = "told to end"
LAUNCH_FAILED = "its launch failed on a node"

_WORDS = {
    "oom": OUT_OF_MEMORY,
    "timeout": TIME_LIMIT,
    "silent": HUNG,
    "TERM": TOLD_TO_END,
    "launch": LAUNCH_FAILED,
}


@dataclass(frozen=True)
class ShellEnd:
    """How the shell of one life of a task saw it end: `why` in words, at `moment` (seconds since 1970).

    `status` is the exit status where it is known. `step` is what the task was at where Python had not begun.
    """

    submit: Path
    why: str
    moment: float
    status: int | None = None
    step: str = ""


_BY_ITSELF = "exit status "
"""Begins the `why` of a process that no signal ended."""


def shell_ends(stage_folder: Path) -> dict[tuple[str, int], ShellEnd]:
    """(Job, restart) -> how it ended, of all tasks of a stage whose shell left a record."""
    found = {}
    submits = below(stage_folder, 1) / "submits"
    for folder in (submits / entry.name for entry in submits.entries() if entry.is_folder):
        for entry in folder.entries():
            job, _, restart = entry.name.removesuffix(".end").rpartition("-")
            if entry.name.endswith(".end") and _NUMBER.fullmatch(restart):
                with suppress(BadFileError):  # it is a second opinion, which `verify` lists
                    found[job, int(restart)] = _read(folder, entry.name)
    return found


_NUMBER = re.compile("[0-9]{1,9}")


def _read(folder: Place, name: str) -> ShellEnd:
    # WHAT SECONDS, and where Python had not begun: start SECONDS STATUS STEP.
    with folder.open(name) as file:
        text, moment = file.read(_LONGEST).decode(errors="replace"), os.fstat(file.fileno()).st_mtime
    word, _, status, step = [*text.split(maxsplit=3), "", "", "", ""][:4]
    if word == "start" and _NUMBER.fullmatch(status):
        return ShellEnd(folder.path, _of_status(int(status)), moment, int(status), step.strip())
    if _NUMBER.fullmatch(word):
        return ShellEnd(folder.path, _of_status(int(word)), moment, int(word))
    return ShellEnd(folder.path, _WORDS.get(word, ""), moment)


_LONGEST = 4096
"""Bytes that the shell writes at most."""


def _of_status(status: int) -> str:
    """By the exit status that a shell gives a process which a signal ended. 255 is what Apptainer ends with."""
    return f"signal {status - 128}" if 128 < status <= 192 else f"{_BY_ITSELF}{status}"


def why_killed(*, by_shell: str, by_log: str, by_accounts: str, came_back: bool) -> str:
    """The one cause by three witnesses, in words; empty where none knows it. `came_back`: its task began again."""
    if OUT_OF_MEMORY in (by_shell, by_accounts):
        return OUT_OF_MEMORY
    if by_shell and by_shell not in (TIME_LIMIT, TOLD_TO_END):
        return by_shell
    # A shell that was told to end knows no more. One that was not, and left nothing, died with its node.
    return by_log or by_accounts or by_shell or (NODE_FAILURE if came_back else "")


def note_failed_launch(submit_folder: Path, task: str, restart: int) -> None:
    """Leave the record of a task whose launch failed and which will not be tried again: no shell of it ever ran."""
    below(submit_folder, 3).write(f"{task}-{restart}.end", "launch")


def is_own_doing(why: str) -> bool:
    """Whether what ran may be why it ended: a scheduler, a person and a node that dies kill whatever runs."""
    return why in (OUT_OF_MEMORY, HUNG) or why.startswith("signal ") or ended_by_itself(why)


def ended_by_itself(why: str) -> bool:
    """Whether nobody killed it: it left with an exit status."""
    return why.startswith(_BY_ITSELF)
