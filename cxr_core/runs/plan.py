"""Plans: the frozen list of a stage's shards, and the fingerprint of all that their contents depend on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.runs.files import canonical_json, sha256_text, write_atomic

FORMAT = 1

_MEND = "the plan is damaged or of another version: start the run under another name"


@dataclass(frozen=True)
class Shard:
    """An id and a slice `[start, stop)` of the stage's items; `extra` holds what else defines its work (plain JSON).

    Ids and contents never depend on how many tasks or devices run.
    """

    id: str
    start: int
    stop: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What a stage will do, frozen once in `plan.jsonl`.

    `chain` says that shard k needs shard k-1 (training). `files` are the side files of the plan (in `<stage>/plan/`)
    with their sha256, `upstream` maps the role of each input to its digest,
    `image` is the sha256 of the image it was frozen in, and `parts` is what else it was frozen for: settings, seed,
    code (sha256), libraries (versions), files outside of the run (path -> sha256), and beside these the commit.
    The fingerprint covers all of it but the commit, and the shards.
    """

    stage: str
    shards: tuple[Shard, ...]
    fingerprint: str
    chain: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def is_old(self) -> bool:
        """Whether the plan was frozen before plans said by which code they were made: it has no `parts`."""
        return not self.parts

    def sealed(self) -> str:
        """The fingerprint that follows from what stands in the plan; of an old plan, which says too little, its own."""
        if self.is_old:
            return self.fingerprint
        return fingerprint(
            **{name: value for name, value in self.parts.items() if name != "commit"},
            image=self.image,
            upstream=dict(self.upstream),
            side_files=dict(self.files),
            shards=listed(self.shards),
        )

    def write(self, path: Path) -> None:
        header = {name: value for name, value in asdict(self).items() if name != "shards"}
        lines = [header | {"num_shards": len(self.shards)}, *(asdict(shard) for shard in self.shards)]
        write_atomic(path, "".join(canonical_json(line) + "\n" for line in lines))

    @classmethod
    def read_header(cls, path: Path) -> dict[str, Any]:
        """The plan's first line: all but the shards, and `num_shards`. Raises UserError if it is damaged."""
        try:
            with path.open() as file:
                header = json.loads(file.readline())
            return {**header, "num_shards": int(header["num_shards"])}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"damaged ({error!r})", where=str(path), mend=_MEND) from error

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan. Raises UserError if it is truncated or of another format."""
        try:
            header, *shards = [json.loads(line) for line in path.read_text().splitlines()]
            num_shards = header.pop("num_shards")
            plan = cls(shards=tuple(Shard(**shard) for shard in shards), **header)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"damaged ({error!r})", where=str(path), mend=_MEND) from error
        if plan.format != FORMAT or num_shards != len(shards):
            raise UserError(f"format {plan.format}, {len(shards)} of {num_shards} shards", where=str(path), mend=_MEND)
        return plan


def slices(num_items: int, shard_size: int, *, prefix: str = "") -> tuple[Shard, ...]:
    """Contiguous shards of at most `shard_size` items, with ids that sort: `00000`, `00001` ..."""
    starts = range(0, num_items, shard_size)
    return tuple(Shard(f"{prefix}{i:05d}", a, min(a + shard_size, num_items)) for i, a in enumerate(starts))


def listed(shards: Iterable[Shard]) -> list[list[Any]]:
    """Shards as fingerprints cover them."""
    return [[shard.id, shard.start, shard.stop, dict(shard.extra)] for shard in shards]


def fingerprint(**parts: Any) -> str:
    """sha256 of the canonical JSON of everything that a stage's contents are a function of."""
    return sha256_text(canonical_json(parts))
