"""Which image files lie below a folder: regular files whose names end in .png; all else is passed over by a rule."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cxr_core.data.paths import spelled
from cxr_core.data.problems import problem
from cxr_core.errors import UserError

ENDING = ".png"

_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Made by macOS, Synology, Windows and ext4 beside the files of users; what lies in them is no one's image."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def image_files(folder: Path, odd: list[dict[str, str]]) -> Iterator[str]:
    """Paths, as `spelled`, of the image files below `folder`, at any depth, by name; links are followed.

    What is passed over is added to `odd` as problems: `passed_over` for hidden names (`._a.png` too), folders of the
    system's and links that lead back to a folder above them; `not_a_file` for a name ending in .png that is a link to
    nothing, a folder, a pipe or a device. Raises UserError for a folder that is missing or cannot be listed.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder), hint="correct `images` in the config")
    yield from _walk(str(folder.absolute()), (), odd)


def passed_over_words(odd: Sequence[Mapping[str, str]]) -> str:
    """How many names a walk passed over, with the first: the end of a sentence; "" for none."""
    first = f"the first is {odd[0]['file']}, {odd[0]['detail']}" if odd else ""
    return f"; {len(odd)} names were passed over, {first}" if odd else ""


def refuse_folder(error: OSError) -> NoReturn:
    """Raise UserError naming the folder that could not be listed."""
    raise UserError(
        f"this folder cannot be listed ({error.strerror})",
        where=spelled(str(error.filename)),
        hint="check your right to read it and the state of its file system, then run again",
    ) from error


def _walk(folder: str, above: tuple[tuple[int, int], ...], odd: list[dict[str, str]]) -> Iterator[str]:
    try:
        about = os.stat(folder)  # noqa: PTH116 - a hundred thousand Path objects take a second
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refuse_folder(error)
    here = (about.st_dev, about.st_ino)
    if here in above:
        return odd.append(_passed_over(folder, "a link to a folder above it"))
    folders = []
    for entry in entries:
        is_image = entry.name.lower().endswith(ENDING)
        if entry.name.startswith("."):
            odd += [_passed_over(entry.path, "a hidden name")] if is_image or _is_folder(entry) else []
        elif entry.name in _SYSTEM_FOLDERS:
            odd.append(_passed_over(entry.path, "a folder of the system's"))
        elif is_image and not _is_file(entry):
            odd.append(_not_a_file(entry))
            folders += [entry.path] if _is_folder(entry) else []
        elif is_image:
            yield spelled(entry.path)
        elif _is_folder(entry):
            folders.append(entry.path)
    for inner in folders:
        yield from _walk(inner, (*above, here), odd)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or one that may not be followed
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _not_a_file(entry: os.DirEntry[str]) -> dict[str, str]:
    path = spelled(entry.path)
    name = os.path.basename(path)[: -len(ENDING)]  # noqa: PTH119
    return problem("not_a_file", name, path, _what(entry), "")


def _what(entry: os.DirEntry[str]) -> str:
    try:
        return _KINDS.get(stat.S_IFMT(entry.stat().st_mode), "no regular file")
    except OSError as error:
        if not entry.is_symlink():
            return f"cannot be looked at ({error.strerror})"
        return f"a link to {spelled(os.readlink(entry.path))}: {error.strerror}"  # noqa: PTH115


def _passed_over(path: str, why: str) -> dict[str, str]:
    return problem("passed_over", "", spelled(path), why, "left out")
