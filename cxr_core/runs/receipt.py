"""The receipt: the commit record of one shard. It exists if and only if the shard is done, and it is never edited."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.runs.plan import Plan

FORMAT = 1


@dataclass(frozen=True)
class Data:
    """One committed file or folder: `name` in `shards/`, its bytes and sha256 (of a folder: see `sha256_path`)."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """What one shard made, who made it and how long it took (`seconds` by part of the work), in which image, and by
    which code (sha256; "" where it was not recorded yet).

    `continues` is the digest of the shard before it in a chain (training), which it went on from.
    """

    shard: str
    digest: str
    data: Sequence[Data]
    plan: str
    attempt: str
    seed: int
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[Mapping[str, str]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    ended: str = ""
    continues: str = ""
    image: str = ""
    code: str = ""
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
        """Read a receipt. Raises UserError if it is damaged."""
        try:
            value = json.loads(path.read_text())
            return cls(**value | {"data": tuple(Data(**data) for data in value["data"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"damaged receipt ({error})", where=str(path), mend="remove it and run again") from error


def broken_links(plan: Plan, receipts: Mapping[str, Receipt]) -> list[str]:
    """Shards of a chain that went on from another result than the one that stands before them now."""
    links = [(shard.id, str(shard.extra.get("after", ""))) for shard in plan.shards]
    there = [(shard, before) for shard, before in links if shard in receipts and before in receipts]
    return [shard for shard, before in there if receipts[shard].continues not in ("", receipts[before].digest)]
