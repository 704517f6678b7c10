"""How often a run resumed itself, and how that ended: `<run>/_auto_resume/resumes.json`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cxr_core.runs.door import STRICT, BadFileError, Name, Place
from cxr_core.runs.files import json_text
from cxr_core.runs.provenance import now
from cxr_core.runs.records import Count

FORMAT = 1

FOLDER = "_auto_resume"
"""Beside the folders of the stages, none of which can have this name; submits lie in it as in theirs."""

FILE = "resumes.json"
OLD_FILE = "lives.json"
"""What older versions call it; replaced when it is next written."""


@dataclass(frozen=True)
class AutoResume:
    """`most` is how often the run may resume itself; `resumed` lists when it did, `outcome` how it ended, if it has.

    `stage` is the one that is to be done, where it is not the whole run.
    """

    __pydantic_config__ = STRICT

    most: Count
    stage: Name | None = None
    resumed: tuple[str, ...] = ()
    outcome: str = ""
    format: int = FORMAT

    @classmethod
    def read(cls, root: Path) -> "AutoResume | None":
        """Of a run folder; None if it was not asked for. Raises BadFileError if the file is damaged."""
        try:
            return (Place(root) / FOLDER).json(path_of(root).name, cls)
        except FileNotFoundError:
            return None
        except BadFileError as error:
            raise BadFileError(error.what, error.path, "remove it, and resume with --auto-resume N") from error

    def write(self, root: Path) -> None:
        folder = (Place(root) / FOLDER).make()
        folder.write(FILE, json_text(asdict(self)))
        folder.remove(OLD_FILE)

    @property
    def num_left(self) -> int:
        return max(self.most - len(self.resumed), 0)

    def once_more(self) -> "AutoResume":
        """The same after one resume more."""
        return replace(self, resumed=(*self.resumed, now()))

    def ended(self, outcome: str) -> "AutoResume":
        return replace(self, outcome=outcome)


def path_of(root: Path) -> Path:
    """The file of a run; that of an older version where it has no other."""
    folder = Place(root) / FOLDER
    return folder.path / (OLD_FILE if folder.has(OLD_FILE) and not folder.has(FILE) else FILE)
