"""Locks between processes: a file that one of them holds, until it lets go or ends, however that happens.

They are the system's own (flock). The package filelock opens its file by path, where ours is opened from a folder's
handle; needs the right to write, where a member of a group may only read; and takes a second name of a file for a lock.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from cxr_core.runs.door import BadFileError, Place


@contextmanager
def open_lock(place: Place, name: str) -> Iterator[int]:
    """A descriptor of the lock file `name` in a folder, made if it is not there; to close it is to let go.

    The user's umask says which rights others have; who may only read the file can hold the lock too. Raises
    BadFileError if it is another thing than a file of its own: what a link leads to would be overwritten.
    """
    with place.handle() as here:
        lock = _opened(place, name, here)
    try:
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _no_lock(place, name)
        yield lock
    finally:
        os.close(lock)


def hold(lock: int, *, wait: bool = False) -> bool:
    """Take the lock. False where another process holds it, unless this one is to `wait` for that.

    Raises OSError on a file system that is mounted without locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(place: Place, name: str, here: int) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o666, dir_fd=here)
        except PermissionError:
            if not os.access(".", os.W_OK, dir_fd=here):
                raise
            return os.open(name, os.O_RDONLY | flags, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_lock(place, name) from error
        raise


def _no_lock(place: Place, name: str) -> BadFileError:
    return BadFileError("another thing where a lock must be", place.path / name, "remove it; it is made anew")
