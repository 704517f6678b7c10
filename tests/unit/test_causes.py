"""The table of causes: what each row means for an attempt, its shard and the next submit; and how causes are told."""

import errno
import os
import subprocess

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.causes import (
    BY_SHELL,
    BY_STATE,
    CAUSES,
    OWN_WORDS,
    STRANGE_WORDS,
    Stopped,
    broken_node,
    cause_named,
    cause_of,
    cause_of_status,
    machine_fails,
    process_is_lost,
)

# cause: (outcome, counts for parking in its first shard, and after others, may be the work's doing, a resume changes)
TABLE = {
    "finished": ("done", False, False, False, ""),
    "stopped": ("stopped", False, False, False, ""),
    "interrupted": ("stopped", False, False, False, ""),
    "refused": ("failed", True, True, True, ""),
    "shards failed": ("failed", False, False, False, ""),
    "timeout": ("failed", True, True, True, ""),
    "disk full": ("failed", False, False, False, ""),
    "too many open files": ("failed", False, False, False, ""),
    "too many open files in system": ("failed", False, False, False, ""),
    "read-only file system": ("failed", False, False, False, "node"),
    "stale file handle": ("failed", False, False, False, "node"),
    "input/output error": ("failed", True, True, True, "node"),
    "CUDA error": ("failed", True, True, True, "node"),
    "out of memory": ("killed", True, True, True, "mem"),
    "time limit": ("timed out", True, False, False, "time"),
    "hung": ("killed", True, True, True, ""),
    "signal": ("killed", True, True, True, ""),
    "exit status": ("failed", False, False, True, ""),
    "terminated": ("killed", False, False, False, ""),
    "preemption": ("killed", False, False, False, ""),
    "cancelled": ("killed", False, False, False, ""),
    "requeued": ("killed", False, False, False, ""),
    "node failure": ("lost", False, False, False, "node"),
    "its launch failed on a node": ("lost", False, False, False, ""),
}


def test_the_table_here_has_each_row_of_the_table_there_and_no_name_twice() -> None:
    assert list(TABLE) == [cause.name for cause in CAUSES]


@pytest.mark.parametrize("name", TABLE)
def test_a_cause_means_what_its_row_says(name: str) -> None:
    cause = cause_named(name)
    parks = cause.counts_for_parking(0), cause.counts_for_parking(2)
    assert (cause.outcome, *parks, cause.blames_the_work, cause.change) == TABLE[name]
    assert cause.next_step or cause.outcome == "done", "people are told what follows"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("signal 9", "signal"),
        ("exit status 127", "exit status"),
        ("requeued from outside", "requeued"),
        ("requeued: a shard was not done in time", "requeued"),
        ("node failure, see slurmctld log for details", "node failure"),
        ("too many open files in system", "too many open files in system"),
        ("interrupted system call", ""),
        ("ZeroDivisionError", ""),
        ("", ""),
    ],
)
def test_a_cause_is_found_by_its_name_and_a_number_or_words_behind_it(words: str, name: str) -> None:
    assert cause_named(words).name == name


def test_given_words_that_the_table_lacks_then_who_said_them_decides() -> None:
    mine, others = cause_named("KeyError", OWN_WORDS), cause_named("job suspended")
    assert (mine.outcome, mine.counts_for_parking(3)) == ("failed", True)
    assert (others.outcome, others.counts_for_parking(0)) == ("killed", False)
    assert others is STRANGE_WORDS


def test_the_words_of_the_shell_and_states_of_the_scheduler_lead_to_rows() -> None:
    shell = {"oom": "out of memory", "timeout": "time limit", "silent": "hung", "TERM": "terminated"}
    assert shell | {"launch": "its launch failed on a node"} == BY_SHELL
    assert BY_STATE["BOOT_FAIL"] == BY_STATE["NODE_FAIL"] == "node failure"
    assert "COMPLETED" not in BY_STATE


@pytest.mark.parametrize(("status", "words"), [(1, "exit status 1"), (255, "exit status 255"), (137, "signal 9")])
def test_a_status_above_128_is_that_of_a_signal(status: int, words: str) -> None:
    assert cause_of_status(status) == words


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class RankDiedError(UserError):
    cause = "rank died"


ERRORS = [
    (UserError("x"), "refused"),
    (RankDiedError("x"), "rank died"),
    (KeyboardInterrupt(), "interrupted"),
    (Stopped("before shard 00001"), "stopped"),
    (MemoryError(), "out of memory"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full"),
    (OSError(errno.ESTALE, "Stale file handle"), "stale file handle"),
    (TimeoutError(), "timeout"),
    (subprocess.TimeoutExpired("unzip", 5), "timeout"),
    (subprocess.CalledProcessError(-9, "unzip"), "signal"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "signal"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), "no such file or directory"),
    (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
]


@pytest.mark.parametrize(("error", "cause"), ERRORS, ids=[f"{type(error).__name__}-{cause}" for error, cause in ERRORS])
def test_the_cause_of_an_error_is_one_of_few_classes_or_its_type(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE])
def test_given_a_refusal_that_the_next_shard_would_meet_then_the_machine_fails(number: int) -> None:
    assert machine_fails(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("disk full"), MemoryError()])
def test_given_any_other_error_then_the_machine_is_not_blamed(error: Exception) -> None:
    assert not machine_fails(error)


def test_given_an_error_of_cuda_then_nothing_more_can_be_computed_in_the_process() -> None:
    assert process_is_lost(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not process_is_lost(RuntimeError("CUDA out of memory"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("OSError: [Errno 30] Read-only file system: '/scratch'", "Read-only file system"),
        ("shards failed RuntimeError: CUDA error: x", "CUDA error"),
        ("node failure", ""),
        ("refused", ""),
    ],
)
def test_what_breaks_a_node_is_found_in_the_words_of_an_attempt(text: str, found: str) -> None:
    assert broken_node(text) == found
