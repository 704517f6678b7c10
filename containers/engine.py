"""The words before a command that is to run in an image, and what can be known of an image without running it."""

import shutil
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from containers.binds import Bind, in_order
from cxr_core.errors import UserError

_ARCHITECTURES = {b"02": "x86_64", b"04": "aarch64", b"05": "ppc64", b"06": "ppc64le"}
"""Code in the header of a SIF -> machine as `uname -m` calls it."""

_MAGIC, _ARCHITECTURE = slice(32, 41), slice(45, 47)
"""Where the header of a SIF has its name and its architecture."""


def script(name: str) -> str:
    """A shell script of this package, without the comments that explain it."""
    lines = (files("containers") / name).read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#")) + "\n"


def enter(
    image: Path, sha256: str, binds: Iterable[Path | Bind], *, cwd: Path, gpus: bool, names: Sequence[str] = ()
) -> list[str]:
    """The words that run what follows them in an image whose bytes have this `sha256`: one container, named binds, a
    short list of variables.

    Paths lie at the same place inside, whatever their names; `cwd` is bound and is the working directory. Of the
    environment only what enter.sh lists (the place in a Slurm job, CUDA_VISIBLE_DEVICES, NCCL_*, CXR_*, TMPDIR, the
    numbers of threads) and `names` pass, and where one of `names` holds a folder it is bound. Home and /tmp are a
    folder of the task alone. `gpus` brings the driver's libraries in.
    """
    folders = (each if isinstance(each, Bind) else Bind.at_its_place(each) for each in (*binds, cwd))
    mounts = [word for bind in in_order(folders) for word in ("--mount", bind.mount)]
    options = [*(["--nv"] if gpus else []), *mounts, "--pwd", str(cwd)]
    lines = script("trust.sh") + script("enter.sh")
    return ["bash", "-c", lines, "enter", str(image), sha256, "|".join(names), *options, "--"]


def engine() -> str:
    """Path of apptainer. Raises UserError where there is none."""
    found = shutil.which("apptainer")
    if found is None:
        raise UserError("there is no apptainer on this machine", hint="load its module, or install it (any 1.x)")
    return found


def architecture(image: Path) -> str | None:
    """Machine that a SIF is for, as `uname -m` says it; None where it is no SIF, or of a machine we do not know."""
    with image.open("rb") as file:
        header = file.read(64)
    return _ARCHITECTURES.get(header[_ARCHITECTURE]) if header[_MAGIC] == b"SIF_MAGIC" else None
