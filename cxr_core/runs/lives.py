"""How often a run resumed itself, and how that ended: `<run>/_auto_resume/lives.json`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.provenance import now

FORMAT = 1

FOLDER = "_auto_resume"
"""Beside the folders of the stages, none of which can have this name; submits lie in it as in theirs."""


@dataclass(frozen=True)
class Lives:
    """`most` is how often the run may resume itself; `resumed` lists when it did, `outcome` how it ended, if it has.

    `stage` is the one that is to be done, where it is not the whole run.
    """

    most: int
    stage: str | None = None
    resumed: Sequence[str] = ()
    outcome: str = ""
    format: int = FORMAT

    @classmethod
    def read(cls, root: Path) -> "Lives | None":
        """Of a run folder; None if it was not asked for. Raises UserError if the file is damaged."""
        path = root / FOLDER / "lives.json"
        try:
            return cls(**read_json(path)) if path.exists() else None
        except (ValueError, TypeError) as error:
            mend = "remove it, and resume with --auto-resume N"
            raise UserError(f"damaged ({error!r})", where=str(path), mend=mend) from error

    def write(self, root: Path) -> None:
        (root / FOLDER).mkdir(exist_ok=True)
        write_json(root / FOLDER / "lives.json", asdict(self))

    @property
    def num_left(self) -> int:
        return max(self.most - len(self.resumed), 0)

    def lived(self) -> "Lives":
        """One resume more."""
        return replace(self, resumed=(*self.resumed, now()))

    def ended(self, outcome: str) -> "Lives":
        return replace(self, outcome=outcome)
