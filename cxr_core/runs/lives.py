"""How often a run resumed itself, and how that ended: `<run>/_auto_resume/lives.json`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cxr_core.runs.door import STRICT, BadFileError, Name, Place
from cxr_core.runs.files import json_text
from cxr_core.runs.provenance import now
from cxr_core.runs.records import Count

FORMAT = 1

FOLDER = "_auto_resume"
"""Beside the folders of the stages, none of which can have this name; submits lie in it as in theirs."""


@dataclass(frozen=True)
class Lives:
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
    def read(cls, root: Path) -> "Lives | None":
        """Of a run folder; None if it was not asked for. Raises BadFileError if the file is damaged."""
        try:
            return (Place(root) / FOLDER).json("lives.json", cls)
        except FileNotFoundError:
            return None
        except BadFileError as error:
            raise BadFileError(error.what, error.path, "remove it, and resume with --auto-resume N") from error

    def write(self, root: Path) -> None:
        (Place(root) / FOLDER).make().write("lives.json", json_text(asdict(self)))

    @property
    def num_left(self) -> int:
        return max(self.most - len(self.resumed), 0)

    def lived(self) -> "Lives":
        """One resume more."""
        return replace(self, resumed=(*self.resumed, now()))

    def ended(self, outcome: str) -> "Lives":
        return replace(self, outcome=outcome)
