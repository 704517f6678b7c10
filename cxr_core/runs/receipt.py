"""The receipt: the commit record of one shard. It exists if and only if the shard is done, and it is never edited."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cxr_core.runs.door import STRICT, Name, below
from cxr_core.runs.plan import Plan
from cxr_core.runs.records import Count

FORMAT = 1


@dataclass(frozen=True)
class Data:
    """One committed file or folder: `name` in `shards/`, its bytes and sha256 (of a folder: see `sha256_path`)."""

    __pydantic_config__ = STRICT

    role: str
    name: Name
    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Receipt:
    """What one shard made, who made it and how long it took (`seconds` by part of the work), in which image, and by
    which code: its sha256, the version of the release and the commit ("+" after it: with changes). All three are ""
    in receipts of before they were recorded, and the commit where nobody knows it (see `Code.commit`).

    `continues` is the digest of the shard before it in a chain (training), which it went on from.
    """

    __pydantic_config__ = STRICT

    shard: Name
    digest: str
    data: tuple[Data, ...]
    plan: str
    attempt: Name
    seed: int
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Mapping[str, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    ended: str = ""
    continues: str = ""
    image: str = ""
    code: str = ""
    version: str = ""
    commit: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def path(self, stage_folder: Path, role: str) -> Path:
        """Where the data of `role` lies."""
        return stage_folder / "shards" / next(data.name for data in self.data if data.role == role)

    def paths(self, stage_folder: Path) -> dict[str, Path]:
        """Where all its data lie, by role."""
        return {data.role: stage_folder / "shards" / data.name for data in self.data}

    @classmethod
    def read(cls, path: Path) -> "Receipt":
        """Read `<run>/<stage>/receipts/<shard>.json`. Raises FileNotFoundError, or BadFileError if it is damaged."""
        return below(path.parent, 2).json(path.name, cls)


def broken_links(plan: Plan, receipts: Mapping[str, Receipt]) -> list[str]:
    """Shards of a chain that went on from another result than the one that stands before them now."""
    links = [(shard.id, str(shard.extra.get("after", ""))) for shard in plan.shards]
    there = [(shard, before) for shard, before in links if shard in receipts and before in receipts]
    return [shard for shard, before in there if receipts[shard].continues not in ("", receipts[before].digest)]
