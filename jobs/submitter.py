"""Whose a run folder is, and what is taken from it where jobs are sent: names of the user's own profiles, and data.

A profile is code. It comes from the user's folder of profiles, from the suite, or from the command line; a run folder
only says which name it had, and says so only to the user who made the run.
"""

import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.run import Run
from cxr_core.runs.submits import Submit, submit_folders
from cxr_core.shown import printable
from slurm.profile import own_profile


def where_sent(run: Run, cluster: str | None = None) -> tuple[str, Path]:
    """The profile that jobs of a run are sent by, and the folder where the user called: those of the last submit,
    unless `cluster` names a profile by hand.

    Raises UserError if it has to be named: in a run of which another user made a part, or where the last was a path.
    """
    folders = _submit_folders(run)
    last = max((Submit.read(folder) for folder in folders), key=lambda each: each.time, default=None)
    cwd = Path.cwd() / last.cwd if last else Path.cwd()
    if cluster is not None:
        return cluster, cwd
    if last is None:
        raise UserError(
            "nothing of this run was submitted", where=str(run.root), hint="cxr submit CONFIG --cluster NAME"
        )
    if other := _other_owner(run, folders):
        raise UserError(
            f"a part of this run was made by user {other}, and what a profile says is executed as you",
            where=str(run.root),
            hint=f"name one of your profiles: cxr resume {shlex.quote(str(run.root))} --cluster NAME",
        )
    try:
        own_profile(last.cluster)
    except UserError as error:
        raise UserError(
            f"its last submit was by the profile {printable(last.cluster)!r}, which is none of yours by that name; "
            "a run folder's word is not enough to execute a file",
            where=str(run.root),
            hint="name it: --cluster NAME, or --cluster PATH if you know what is in that file",
        ) from error
    return last.cluster, cwd


def _submit_folders(run: Run) -> list[Path]:
    return [folder for stage in run.config["stages"] for folder in submit_folders(run.stage(stage["name"]).path)]


def _other_owner(run: Run, folders: list[Path]) -> str:
    """The user who made a part of the run that says how it is sent, if it is not this one: by name, or by number."""
    others = (uid for path in _telling(run, folders) if (uid := path.lstat().st_uid) != os.getuid())
    return next((_name_of(uid) for uid in others), "")


def _telling(run: Run, folders: list[Path]) -> Iterator[Path]:
    yield from (run.root, run.root / "config.yaml")
    for folder in folders:
        yield from (folder.parents[1], folder.parent, folder, folder / "submit.json")


def is_mine(path: Path) -> bool:
    """Whether this user wrote a file."""
    return path.lstat().st_uid == os.getuid()


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
