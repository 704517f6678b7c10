"""Why a job ended that did not say so itself: what slurmstepd and the batch shell wrote into its log.

It needs no accounting and no scheduler that answers, and it outlives both.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from cxr_core.runs.door import MIB, BadFiles, below

_LINE = re.compile(
    r"^requeue \S+: (?P<asked>.+)$"
    r"|\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT (?P<when>[\dT:-]+)(?: DUE TO (?P<cause>.+?))? \*\*\*",
    re.MULTILINE,
)
"""The shell's line, and slurmstepd's, which follows it; its time is the node's, without a zone."""


def scheduler_logs(stage_folder: Path, job: str) -> list[Path]:
    """The logs of a job: of an element of an array ("12_3"), or of a job without elements ("12")."""
    # Asked for by name: a listing of all logs for each of a thousand killed tasks would take minutes.
    names = (f"{job}.out", f"{job}_0.out")
    submits = below(stage_folder, 1) / "submits"
    folders = [submits / entry.name for entry in submits.entries() if entry.is_folder]
    return [folder.path / name for folder in folders for name in names if folder.is_file(name)]


def text_of_log(path: Path) -> str:
    """The end of `<stage>/submits/<number>/<task>.out`, however long it is; empty where it is no log."""
    folder = below(path.parent, 3)
    return BadFiles().read(lambda: folder.tail(path.name, limit=_LONGEST_LOG), "")


_LONGEST_LOG = 16 * MIB


def last_words(stage_folder: Path, job: str, started: float, until: float = float("inf")) -> str:
    """Why the scheduler ended the life of a job that began at `started`, the next one beginning at `until`.

    Times are seconds since 1970. Returns "time limit", "preemption", "cancelled", "requeued: a shard was not done in
    time" ... or "" where the log does not tell.
    """
    for path in scheduler_logs(stage_folder, job):
        for moment, why in _ends(text_of_log(path)):
            if int(started) <= moment <= until:
                return why
    return ""


def _ends(text: str) -> Iterator[tuple[float, str]]:
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
