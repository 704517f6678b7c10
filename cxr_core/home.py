"""The user's home folder, which need not be there, and folders that are the user's alone.

A container may run as a number that no file of users knows. On a shared node the folder of temporary files is
everybody's, and libraries keep there, under names that all can guess, what they later run: compiled kernels, pickles.
"""

import atexit
import grp
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from cxr_core.errors import UserError

_CACHES = {
    "XDG_CACHE_HOME": "",
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
}
"""Variable -> where below the substitute a library keeps what it would else keep at home."""

CODE_CACHES = (
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TORCH_EXTENSIONS_DIR",
    "CUDA_CACHE_PATH",
    "NUMBA_CACHE_DIR",
    "PYTHONPYCACHEPREFIX",
    "MPLCONFIGDIR",
    "XDG_CACHE_HOME",
    "HF_MODULES_CACHE",
)
"""Variables of folders from which code is run."""


def home() -> Path | None:
    """The home folder by HOME, else by the file of users; None where neither names one."""
    given = os.environ.get("HOME")
    if given:
        return Path(given)
    entry = _entry()
    return Path(entry.pw_dir) if entry else None


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced. Raises UserError where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            "no home folder is known for the ~ in it",
            where=str(path),
            hint="write the whole path, or export HOME=/a/folder",
        ) from None


def substitute_home() -> None:
    """Let libraries work that keep caches at home or ask for the user's name, where there is neither: the caches go to
    a private folder of temporary files. What is set already stays."""
    if _entry() is None and not any(os.environ.get(name) for name in ("LOGNAME", "USER")):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    place = home()
    if place is not None and os.access(place, os.W_OK):
        return
    substitute = private_folder("cxr-home")
    for name, folder in _CACHES.items():
        os.environ.setdefault(name, str(substitute / folder))


def keep_caches_private() -> None:
    """See that no library runs what another user may have put into its cache.

    torch keeps compiled code among the temporary files, under a name that all can guess: here it is a private folder.
    Folders that variables name are made private. Raises UserError if one is there to which others can write.
    """
    for name, given in ((name, os.environ.get(name)) for name in CODE_CACHES):
        if not given:
            continue
        with suppress(OSError):  # whatever needs it will say so
            Path(given).mkdir(mode=0o700, parents=True)
        if Path(given).exists() and not only_mine(Path(given)):
            raise UserError(
                "others can write to this cache, and what lies in it is run",
                where=f"{name}={given}",
                hint="name a new folder below one that only you or root can change; it is made with mode 0700",
            )
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private_folder("cxr-home") / "inductor")


def private_folder(name: str) -> Path:
    """The folder of temporary files `<name>-<user id>` of mode 0700, kept for the next process; where that is not this
    user's alone, a new one that goes with this process."""
    kept = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    try:
        kept.mkdir(mode=0o700, exist_ok=True)
        if kept.lstat().st_uid == os.getuid() and only_mine(kept):
            kept.chmod(0o700)
            return kept
    except OSError:
        pass
    made = tempfile.mkdtemp(prefix=f"{name}-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def only_mine(path: Path) -> bool:
    """Whether nobody but this user and root can change what lies at `path`, or put another thing in its place."""
    try:
        whole = path.resolve(strict=True)
        return all(_is_ours(each.lstat().st_uid) for each in _links(path)) and not any(_open_to_others(whole))
    except OSError:
        return False


def _links(path: Path) -> Iterator[Path]:
    """Every link on the way, and on the way to which one leads."""
    for each in (path.absolute(), *path.absolute().parents):
        if each.is_symlink():
            yield each
            yield from _links(each.parent / each.readlink())


def _open_to_others(whole: Path) -> Iterator[bool]:
    """Of a path without links and of each folder above, from the root on, whether others can write to it. In a folder
    whose sticky bit is set, nobody renames what is another's; below one of ours that nobody else can enter, nothing
    can be reached."""
    for each in (*reversed(whole.parents), whole):
        found, is_above = each.stat(), each != whole
        # A list of further users shows as a right of the group.
        is_alone = found.st_gid == _own_group() and _ACL not in os.listxattr(each)
        is_loose = found.st_mode & (0o002 if is_alone else 0o022) and not (is_above and found.st_mode & stat.S_ISVTX)
        yield bool(is_loose) or not _is_ours(found.st_uid, is_above=is_above)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return


def _is_ours(owner: int, *, is_above: bool = False) -> bool:
    """In a container, whose namespace may know this user alone, the folders above are owned by nobody."""
    return owner in (0, os.geteuid()) or (is_above and owner == _nobody())


_ACL = "system.posix_acl_access"


@cache
def _own_group() -> int | None:
    """The group in which this user is alone, by its name, as some systems give one to each; None without."""
    entry = _entry()
    try:
        group = grp.getgrgid(os.getgid())
    except KeyError:
        return None
    is_own = entry is not None and group.gr_name == entry.pw_name and set(group.gr_mem) <= {entry.pw_name}
    return group.gr_gid if is_own else None


@cache
def _nobody() -> int | None:
    """The number that stands for users who are not known in this namespace; None where all are."""
    if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        return None
    return int(Path("/proc/sys/kernel/overflowuid").read_text())


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
