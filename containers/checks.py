"""Questions to a machine about containers: can it run an image, how fast, and is the image what it should be."""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from containers.binds import Bind
from containers.engine import architecture, enter
from containers.store import Image
from cxr_core.home import only_mine

_OLDEST = (1, 1)
"""apptainer that builds and runs without help of root."""

_SLOW = 5.0
"""Seconds to enter an image from which it is worth asking why."""

_KEPT = ("/etc/localtime", "/etc/hosts")
"""Binds of apptainer.conf that the engine keeps, or that nothing here needs."""

_HELPERS = ("/usr/libexec/apptainer/bin", "/usr/lib/x86_64-linux-gnu/apptainer/bin", "/usr/local/libexec/apptainer/bin")
"""Where packages of apptainer keep programs of their own."""


@dataclass(frozen=True)
class ImageCheckResult:
    """The fact, and what to do about it where it is not as it should be."""

    level: Literal["ok", "warn", "fail"]
    fact: str
    fix: str = ""


def engine(image: Image) -> ImageCheckResult:
    """Which engine there is."""
    path = shutil.which("apptainer")
    if path is None:
        return ImageCheckResult(
            "fail", "there is no apptainer on this machine", "load its module, and add that line to `setup:` too"
        )
    said = _said("apptainer", "--version")
    found = re.search(r"(\d+)\.(\d+)\S*", said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        return ImageCheckResult("warn", f"{path}: {said or 'no version'}", "ask for apptainer 1.1 or later")
    return ImageCheckResult("ok", f"apptainer {found[0]} at {path}")


def user_namespaces(image: Image) -> ImageCheckResult:
    """Whether an engine without rights of root can work."""
    if any(_setuid(Path(folder) / "starter-suid") for folder in _HELPERS):
        return ImageCheckResult("ok", "the engine is installed setuid, and needs no user namespaces")
    if _status("unshare", "--user", "--map-root-user", "true") == 0:
        return ImageCheckResult("ok", "user namespaces are allowed")
    limit = _read("/proc/sys/user/max_user_namespaces")
    return ImageCheckResult(
        "fail",
        f"no user namespaces (max_user_namespaces is {limit})",
        "ask your administrators to allow them, or to install apptainer-suid",
    )


def mount(image: Image) -> ImageCheckResult:
    """How the file of an image becomes a file system."""
    if image.path.is_dir():
        return ImageCheckResult("ok", "the image is a folder: nothing is mounted")
    if any(_setuid(Path(folder) / "starter-suid") for folder in _HELPERS):
        return ImageCheckResult("ok", "the kernel mounts images (the engine is installed setuid)")
    programs = ("squashfuse_ll", "squashfuse")
    found = next((program for program in programs if _which(program)), None)
    if found and os.access("/dev/fuse", os.R_OK | os.W_OK):
        return ImageCheckResult("ok", f"{found} mounts images; signals go to the batch shell alone, which it survives")
    lacks = "/dev/fuse may not be opened" if found else "there is no squashfuse"
    return ImageCheckResult(
        "warn", f"{lacks}: an image is unpacked at each start", "ask for squashfuse, or unpack it to a folder"
    )


def start(image: Image) -> ImageCheckResult:
    """How long it takes to run `true` in the image."""
    begin = time.monotonic()
    done = subprocess.run(
        [*enter(image.path, image.sha256, (), cwd=Path("/"), gpus=False), "true"], capture_output=True, text=True
    )
    seconds = time.monotonic() - begin
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return ImageCheckResult(
            "fail", f"`true` does not run in it: {reason}", f"try: apptainer exec {image.path} true"
        )
    if seconds > _SLOW:
        return ImageCheckResult(
            "warn", f"`true` takes {seconds:.1f} s in it", "put it on a faster disk: `image_scratch:`"
        )
    return ImageCheckResult("ok", f"`true` takes {seconds:.2f} s in it")


def machine(image: Image) -> ImageCheckResult:
    """Whether the image is for this kind of machine."""
    kind, here = architecture(image.path) if image.path.is_file() else None, platform.machine()
    if kind is None:
        return ImageCheckResult("ok", f"{image.path.name} does not say which machines it is for")
    if kind != here:
        return ImageCheckResult(
            "fail", f"the image is for {kind}, this machine is {here}", "pull the image for this machine"
        )
    return ImageCheckResult("ok", f"the image is for {kind}, as this machine")


def digest(image: Image) -> ImageCheckResult:
    """Whether the bytes of the image are those of its name."""
    size = f"{image.bytes / 1e9:.2f} GB"
    if not image.is_sound():
        return ImageCheckResult("fail", f"{image.path} is not what its name says", "`cxr image pull` replaces it")
    return ImageCheckResult("ok", f"sha256 {image.sha256[:12]}, {size}")


def driver(image: Image) -> ImageCheckResult:
    """Whether the driver knows the CUDA that the image was built for."""
    header = _said("nvidia-smi")
    newest = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", header)
    if newest is None:
        return ImageCheckResult("ok", "not compared with the image: there is no NVIDIA driver on this machine")
    words = enter(image.path, image.sha256, (), cwd=Path("/"), gpus=True)
    inside = re.search(r"(\d+)\.(\d+)", _said(*words, "python", "-c", "import torch; print(torch.version.cuda)"))
    if inside is None:
        return ImageCheckResult("warn", "torch in the image has no CUDA", "build it with --target cuda")
    return judge_driver((int(newest[1]), int(newest[2])), (int(inside[1]), int(inside[2])))


def judge_driver(driver: tuple[int, int], image: tuple[int, int]) -> ImageCheckResult:
    """A driver serves programs of its own CUDA and of older ones, and of its major version."""
    fact = f"the driver knows CUDA {driver[0]}.{driver[1]}, the image was built for {image[0]}.{image[1]}"
    if driver[0] < image[0]:
        return ImageCheckResult("fail", fact, "use an image for an older CUDA, or ask for a newer driver")
    return ImageCheckResult("ok", fact)


def owner(image: Image, *, is_copied: bool) -> ImageCheckResult:
    """Whether others could change the image while it is run. `is_copied`: each node has a copy of this user's."""
    if is_copied or only_mine(image.path):
        return ImageCheckResult(
            "ok", "nobody else can change it" if not is_copied else "what is run is a copy of your own"
        )
    who = image.path.stat().st_uid
    fact = f"others (owner: user {who}, or a folder's above) can change the image between its check and its end"
    return ImageCheckResult(
        "warn", fact, "set `image_scratch:`, or copy it to a folder of your own (`cxr image stage`)"
    )


def site_binds(binds: Iterable[Bind], config: Path | None = None) -> ImageCheckResult:
    """What apptainer.conf would bring into a container, and tasks do not see unless the profile's `binds` name it."""
    found = re.search(r"^APPTAINER_CONF_FILE=(.+)$", _said("apptainer", "buildcfg"), re.M)
    path = config or Path(found[1] if found else "/etc/apptainer/apptainer.conf")
    if not os.access(path, os.R_OK):
        return ImageCheckResult("ok", f"{path} cannot be read: what the site binds is not known")
    named = re.findall(r"^\s*bind path\s*=\s*([^:\s]+)(?::([^:\s]+))?", path.read_text(), re.M)
    there = {to or source: f"{source}:{to}" if to else source for source, to in named if source not in _KEPT}
    inside = [Path(bind.destination) for bind in binds]
    lost = [place for place in there if not any(Path(place).is_relative_to(each) for each in inside)]
    if not lost:
        return ImageCheckResult("ok", f"{path} binds {', '.join(there) or 'no folder'}: nothing is missed")
    to_write = ", ".join(there[place] for place in lost)
    fix = f"if data, models or libraries that you need lie there: `binds: [{to_write}]`"
    return ImageCheckResult("warn", f"{path} binds {', '.join(lost)}, which tasks do not see", fix)


CHECKS: Mapping[str, Callable[[Image], ImageCheckResult]] = {
    "engine": engine,
    "namespaces": user_namespaces,
    "mount": mount,
    "image": digest,
    "machine": machine,
    "start": start,
    "driver": driver,
}
"""In the order in which they are told."""


def _said(*words: str) -> str:
    """What a command prints; empty where it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _status(*words: str) -> int:
    try:
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 127


def _which(program: str) -> str | None:
    return shutil.which(program) or next((p for f in _HELPERS if os.access(p := f"{f}/{program}", os.X_OK)), None)


def _setuid(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o4000)


def _read(path: str) -> str:
    return Path(path).read_text().strip() if Path(path).exists() else "unknown"
