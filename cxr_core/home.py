"""The user's home folder, which need not be there: a container may run as a number that no file of users knows."""

import os
import pwd
import tempfile
from pathlib import Path

from cxr_core.errors import UserError

_CACHES = {
    "XDG_CACHE_HOME": "",
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
}
"""Variable -> where below the substitute a library keeps what it would else keep at home."""


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
            mend="write the whole path, or export HOME=/a/folder",
        ) from None


def substitute_home() -> None:
    """Let libraries work that keep caches at home or ask for the user's name, where there is neither: the caches go to
    a private folder of temporary files. What is set already stays."""
    if _entry() is None and not any(os.environ.get(name) for name in ("LOGNAME", "USER")):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    place = home()
    if place is not None and os.access(place, os.W_OK):
        return
    substitute = Path(tempfile.gettempdir(), f"cxr-home-{os.getuid()}")
    if _is_ours(substitute):
        for name, folder in _CACHES.items():
            os.environ.setdefault(name, str(substitute / folder))


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
