"""Why attempts end: one table, from each cause to the outcome, to what may be to blame, and to what follows.

A cause is named by the words that stand in records and that people read. A number, or more words behind a comma or a
colon, may follow the name: `signal 9`, `exit status 127`, `requeued: a shard was not done in time`.
"""

import errno
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cxr_core.errors import UserError

Outcome = Literal["done", "failed", "stopped", "killed", "timed out", "silent", "lost"]
"""How an attempt ended: it did its work; it failed by itself; it was asked to end and reached a safe point; it was
killed; its time was up; nothing is heard of it, though it may live; it went with its node."""

Blame = Literal["nothing", "task", "shard", "lone shard"]
"""What may be why an attempt ended so: whatever ran there would have ended; what was started, before or beside any
shard; the shard at hand too; the shard at hand, if the attempt had all its time for that one."""

Change = Literal["", "mem", "time", "node"]
"""What a resume asks for otherwise: more memory, more time, no such node."""


@dataclass(frozen=True)
class Cause:
    """A row of the table, which has a test of each.

    `reach` says who would meet the same: another shard too if it is the process or the machine that fails. A cause that
    `recurs` ends a task again if it ended it before its first shard. `next_step` tells people what follows or what to
    do. The others are what witnesses call it: the batch shell, states of the scheduler, errors of the system.
    """

    name: str
    outcome: Outcome
    blame: Blame = "nothing"
    change: Change = ""
    reach: Literal["shard", "process", "machine"] = "shard"
    recurs: bool = False
    next_step: str = ""
    shell: str = ""
    states: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()

    @property
    def blames_the_work(self) -> bool:
        """Whether what ran may be why it ended: a scheduler, a person and a node that dies kill whatever runs."""
        return self.blame in ("task", "shard")

    def counts_for_parking(self, num_shards: int) -> bool:
        """Whether it counts against the shard at hand of an attempt that made `num_shards` before."""
        return self.blame == "shard" or (self.blame == "lone shard" and num_shards == 0)


SHARDS_FAILED = "shards failed"
OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
TERMINATED = "terminated"
NODE_FAILURE = "node failure"
LAUNCH_FAILED = "its launch failed on a node"

_AGAIN = "`cxr resume` tries it again; three times in one shard park it"
_SENT = "`cxr resume` sends what is left"
_NODE = "`cxr resume` leaves the node out for a day"
_ROOM = "free some room (`df -h`, `df -i`, `quota`), then `cxr resume`"
_FILES = "raise the limit of open files (`ulimit -n`), then `cxr resume`"
_MEM = "`cxr resume` asks for twice `mem`, up to `max_mem` of the profile; three times in one shard park it"
_TIME = "`cxr resume` asks for twice `time` if no shard was done in it, up to `max_time` of the profile"

CAUSES = (
    Cause("finished", "done"),
    Cause("stopped", "stopped", next_step=_SENT),
    Cause("interrupted", "stopped", next_step=_SENT),
    Cause("refused", "failed", "shard", next_step="correct what it names, then `cxr resume`"),
    Cause(SHARDS_FAILED, "failed", next_step="`cxr logs` says why; `cxr resume` tries them again"),
    Cause("timeout", "failed", "shard", next_step=_AGAIN),
    Cause("disk full", "failed", reach="machine", next_step=_ROOM, errors=(errno.ENOSPC, errno.EDQUOT)),
    Cause("too many open files", "failed", reach="machine", next_step=_FILES, errors=(errno.EMFILE,)),
    Cause("too many open files in system", "failed", reach="machine", next_step=_SENT, errors=(errno.ENFILE,)),
    Cause("read-only file system", "failed", "nothing", "node", "machine", next_step=_NODE, errors=(errno.EROFS,)),
    Cause("stale file handle", "failed", "nothing", "node", "machine", next_step=_NODE, errors=(errno.ESTALE,)),
    Cause("input/output error", "failed", "shard", "node", next_step=_NODE, errors=(errno.EIO,)),
    Cause("CUDA error", "failed", "shard", "node", "process", next_step=_NODE),
    Cause(OUT_OF_MEMORY, "killed", "shard", "mem", next_step=_MEM, shell="oom", states=("OUT_OF_MEMORY",)),
    Cause(TIME_LIMIT, "timed out", "lone shard", "time", next_step=_TIME, shell="timeout", states=("TIMEOUT",)),
    Cause("hung", "killed", "shard", next_step=_AGAIN, shell="silent"),
    Cause("signal", "killed", "shard", recurs=True, next_step=_AGAIN),
    Cause("exit status", "failed", "task", recurs=True, next_step="the end of its log says why"),
    Cause(TERMINATED, "killed", next_step=_SENT, shell="TERM"),
    Cause("preemption", "killed", next_step=_SENT, states=("PREEMPTED",)),
    Cause("cancelled", "killed", next_step=_SENT, states=("CANCELLED",)),
    Cause("requeued", "killed", next_step="the scheduler starts it again", states=("REQUEUED",)),
    Cause(NODE_FAILURE, "lost", change="node", next_step=_NODE, states=("NODE_FAIL", "BOOT_FAIL")),
    Cause(LAUNCH_FAILED, "lost", next_step=_SENT, shell="launch"),
)

OWN_WORDS = Cause("", "failed", "shard", next_step=_AGAIN)
"""Of any other cause that an attempt said itself, such as the type of an error."""

STRANGE_WORDS = Cause("", "killed", next_step=_SENT)
"""Of any other cause that a witness tells."""

_MORE_WORDS = r"(?: \d+|[,:].*| from outside)?"


@lru_cache(1024)
def cause_named(words: str, other: Cause = STRANGE_WORDS) -> Cause:
    """The row of a cause, as records name it; `other` if the table has none."""
    return next((cause for cause in CAUSES if re.fullmatch(re.escape(cause.name) + _MORE_WORDS, words)), other)


BY_SHELL = {cause.shell: cause.name for cause in CAUSES if cause.shell}
BY_STATE = {state: cause.name for cause in CAUSES for state in cause.states}
_BY_ERROR = {number: cause for cause in CAUSES for number in cause.errors}
_OF_A_NODE = [re.escape(cause.name) for cause in CAUSES if (cause.change, cause.outcome) == ("node", "failed")]
_BROKEN_NODE = re.compile("|".join(_OF_A_NODE), re.IGNORECASE)

REFUSED_STATUS = 2
"""Exit status of a task that said what it refused."""

MISSING_STATUS = 69
"""Exit status of a task that lacks what others were to make (EX_UNAVAILABLE of sysexits.h)."""


def cause_of_status(status: int) -> str:
    """By the exit status that a shell gives a process which a signal ended. 255 is what Apptainer ends with."""
    return f"signal {status - 128}" if 128 < status <= 192 else f"exit status {status}"


class Stopped(Exception):  # noqa: N818
    """An end was asked for and a safe point was reached: what is done is committed, and nothing is half done."""


def cause_of(error: BaseException) -> str:
    """The class of an error: refused, interrupted, stopped, out of memory, disk full, timeout, signal, or its type.

    A UserError that has a `cause` of its own, as where a rank was killed, is of that class.

    Equal classes are one cause when failures of a shard are counted.
    """
    if isinstance(error, UserError):
        return getattr(error, "cause", "refused")
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Stopped):
        return "stopped"
    if isinstance(error, OSError) and (known := _BY_ERROR.get(error.errno or 0)):
        return known.name
    # Torch says OutOfMemoryError for a GPU and RuntimeError for host memory, and is not imported for its names alone.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(error)):
        return OUT_OF_MEMORY
    if isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutExpired":
        return "timeout"
    if type(error).__name__ == "BrokenProcessPool" or _BY_SIGNAL.search(str(error)):
        return "signal"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_BY_SIGNAL = re.compile(r"killed by signal|died with <Signals")


def machine_fails(error: Exception) -> bool:
    """Whether the machine or its disk failed, and not the shard: others would meet the same."""
    return isinstance(error, OSError) and cause_named(cause_of(error)).reach == "machine"


def process_is_lost(error: Exception) -> bool:
    """Whether nothing more can be computed in this process: after such an error CUDA refuses every later call."""
    return any(cause.name in str(error) for cause in CAUSES if cause.reach == "process")


def broken_node(text: str) -> str:
    """What of the words of an attempt the next one on the same node would say too; empty if nothing."""
    found = _BROKEN_NODE.search(text)
    return found.group(0) if found else ""
