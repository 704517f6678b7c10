"""One copy of an image on a node: the same lines of shell in a batch script and in `cxr image stage`."""

import shlex
import subprocess
from pathlib import Path

from containers.engine import script
from containers.store import Image
from cxr_core.errors import UserError


def prelude(image: Image, folder: str | None) -> list[str]:
    """Lines of a batch script that bring a SIF to the node, once, or without `folder` only say that it is in use.

    `folder` is quoted for the shell already.
    """
    functions = [line for line in script("stage.sh").splitlines() if line]
    if folder is None:
        return [*functions[: functions.index("}") + 1], shlex.join(["hold_image", str(image.path)])]
    functions = [*(line for line in script("trust.sh").splitlines() if line), *functions]
    words = shlex.join(["stage_image", str(image.path), image.sha256, str(image.bytes)])
    return [*functions, f"{words} {folder} || exit 1"]


def stage(image: Image, folder: Path) -> Path:
    """Copy a SIF to `folder` on this machine, unless it is there; return where it is to be read.

    That is where it lies now if there is no room for a copy. Raises UserError if it is damaged.
    """
    lines = [*prelude(image, shlex.quote(str(folder))), 'printf %s "$CXR_IMAGE_FILE"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            "could not be staged: see above", where=str(image.path), hint="`cxr image verify`, then pull it"
        )
    return Path(done.stdout) if done.stdout else image.path
