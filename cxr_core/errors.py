"""The one exception a user is meant to see."""

import errno
import os


class UserError(ValueError):
    """A mistake that the user can correct: in a config, a file, a folder or a command.

    The message says what was wrong, where (file, row, value), and what to do. The command line prints it without a
    traceback and exits with 2; any other exception is a defect of ours and keeps its traceback.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        first = f"{where}: {what}" if where else what
        super().__init__(f"{first}\n  -> {hint}" if hint else first)


_FULL = (
    "The shards committed so far are safe; free some room (`df -h`, `df -i`, `quota`) and run the same command again"
)

_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "The file system is read-only: choose a folder on another one (a run's with --runs DIR)",
    errno.EACCES: "You may not read or write it: ask for the right, or choose another place (a run's with --runs DIR)",
    errno.EPERM: "You may not do this there: ask for the right, or choose another place (a run's with --runs DIR)",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096",
}


def explain_os_error(error: OSError) -> str | None:
    """What to do about a refusal of the operating system that a user can correct; None for any other."""
    hint = _shorter(str(error.filename)) if error.errno == errno.ENAMETOOLONG else _HINTS.get(error.errno or 0)
    return str(UserError(str(error.strerror), where=str(error.filename or ""), hint=hint)) if hint else None


_LONGEST_NAME = 255
"""Bytes of a file name; a path may have 4,096."""


def _shorter(path: str) -> str:
    """Which part of a path is too long, if one is."""
    longest = max(path.split("/"), key=lambda name: len(os.fsencode(name)))
    size = len(os.fsencode(longest))
    if size > _LONGEST_NAME:
        return f"Shorten {longest[:30]!r}...: a name may have {_LONGEST_NAME} bytes, and this has {size}"
    return "Choose a folder with a shorter path: no name in it is too long, but all of them together are"
