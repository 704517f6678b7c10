"""Bring an image from a registry, once, and convert it to a SIF: on a login node, never inside an array of tasks."""

import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from containers.engine import architecture, engine
from containers.reference import Reference
from containers.store import TOLD_EVERY, Image, ImageLock, Store, Tell, alone
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.runs.files import remove
from cxr_core.runs.provenance import now

PAUSES = (2.0, 5.0, 15.0, 45.0)
"""Seconds between two tries where the registry is busy or the connection breaks."""

log = room_log(__name__)

SQUASHFS = "-comp zstd -Xcompression-level 3"
"""Options of mksquashfs. zstd builds and unpacks several times faster than its default, gzip."""


def _code(number: str) -> str:
    """A status of HTTP in what an engine says, which is full of ports and digests that hold such digits."""
    return rf"(?<![\w:.@-]){number}(?!\w|[.-]\w)"


_TRANSIENT = re.compile(
    rf"toomanyrequests|{_code('429')}|too many requests|unexpected EOF|: EOF|reset by peer|timeout|timed out"
    rf"|connection refused|{_code('50[0234]')}|broken pipe|no route to host|temporary failure",
    re.IGNORECASE,
)

_HINTS = (
    (r"no space left", "free some room there: an image needs about three times its size while it is made"),
    (rf"manifest unknown|not found|{_code('404')}", "this registry has no such image: look the digest up again"),
    (rf"(?i)toomanyrequests|{_code('429')}", "wait an hour, or log in: most registries then allow more"),
    (
        rf"unauthorized|denied|{_code('40[13]')}",
        "log in first: apptainer registry login --username NAME docker://REGISTRY",
    ),
    (r"no such host|certificate", "is the registry's name right, and can it be reached from this machine?"),
)


def pull(reference: Reference, store: Store, *, tell: Tell, sleep: Callable[[float], None] = time.sleep) -> Image:
    """The image as a SIF in the store; downloaded and converted if it is not there or damaged, by one process alone.

    Raises UserError with the registry's words where that fails; nothing half-made is left then.
    """
    work = store.work(reference.digest)
    lock = store.lock_path(reference)
    with alone(lock.with_name(".pull"), tell=tell, busy=lambda: f"another process pulls it: {_so_far(work)}"):
        there = store.pulled(reference)
        if there is not None and there.is_sound():
            return there
        if there is not None:
            tell(f"{there.path} is damaged: pulling it again")
            remove(there.path)
        return _convert(reference, store, work, tell, sleep)


def _convert(reference: Reference, store: Store, work: Path, tell: Tell, sleep: Callable[[float], None]) -> Image:
    made = work / "image.sif"
    try:
        # Layers that a killed pull had complete lie below `cache` under their digests, and are not fetched again.
        for name in ("cache", "tmp"):
            (work / name).mkdir(parents=True, exist_ok=True)
        _try(reference, made, work, tell, sleep)
        kind = _of_this_machine(made, reference)
        image = store.add(made)
        ImageLock(str(reference), image.sha256, image.bytes, kind, version(), now()).write(store.lock_path(reference))
        return image
    finally:
        remove(work)


def _try(reference: Reference, made: Path, work: Path, tell: Tell, sleep: Callable[[float], None]) -> None:
    """Let the engine download and convert; again after a pause where trying again may help."""
    for pause in (*PAUSES, None):
        remove(made)
        status, said = _run(_words(reference, made), work, tell)
        if status == 0:
            return
        reason = _reason(said)
        if pause is None or not may_pass(reason):
            hint = hint_of(reason)
            raise UserError(f"could not be pulled: {reason}", where=str(reference), hint=hint)
        tell(f"{reason}; trying again in {pause:.0f} s")
        sleep(pause)


def may_pass(reason: str) -> bool:
    """Whether what an engine says may be otherwise in a minute."""
    return "no space left" not in reason and _TRANSIENT.search(reason) is not None


def hint_of(reason: str) -> str:
    """What to do about it."""
    return next((hint for form, hint in _HINTS if re.search(form, reason)), "try again later")


def _run(words: Sequence[str], work: Path, tell: Tell) -> tuple[int, str]:
    """Run the engine, and say now and then how far it is; returns its exit status and what it said."""
    log.debug("%s", shlex.join(words))
    with subprocess.Popen(
        words,
        env=_environ(work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            try:
                _, said = process.communicate(timeout=TOLD_EVERY)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                tell(_so_far(work))


def _so_far(work: Path) -> str:
    """Bytes of what is half-made; files come and go while they are counted."""
    total = 0
    for folder, _, names in os.walk(work):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - many files, and often
    return f"{total / 1e6:.0f} MB so far"


def _words(reference: Reference, made: Path) -> list[str]:
    insecure = ["--no-https"] if reference.is_local else []
    return [engine(), "build", *insecure, str(made), f"docker://{reference}"]


def _environ(work: Path) -> dict[str, str]:
    # A folder for unpacking that the user chose, on a fast disk, stands.
    unpacked = {"APPTAINER_TMPDIR": str(work / "tmp")}
    ours = {"APPTAINER_CACHEDIR": str(work / "cache"), "APPTAINER_MKSQUASHFS_ARGS": SQUASHFS}
    return {**unpacked, **os.environ, **ours}


def _reason(stderr: str) -> str:
    """What the engine says went wrong, in one line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("FATAL", "ERROR"))] or lines[-1:]
    return re.sub(r"^(FATAL|ERROR):\s*", "", fatal[-1]) if fatal else "the engine said nothing"


def _of_this_machine(made: Path, reference: Reference) -> str:
    """The image's architecture. Raises UserError if it is not that of this machine."""
    kind, here = architecture(made) or "unknown", platform.machine()
    if kind != here:
        raise UserError(
            f"the image is for {kind}, this machine is {here}",
            where=str(reference),
            hint="give the digest of the image for this architecture, not of another",
        )
    return kind


def version() -> str:
    """Name and version of the engine, e.g. `apptainer 1.4.5`."""
    said = subprocess.run([engine(), "--version"], capture_output=True, text=True, check=False).stdout.split()
    return f"apptainer {said[-1]}" if said else "apptainer"
