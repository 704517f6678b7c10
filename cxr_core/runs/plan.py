"""Plans: the frozen list of a stage's shards, and the fingerprint of all that their contents depend on."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import Field
from typing_extensions import TypedDict

from cxr_core.runs.door import STRICT, BadFileError, Name, below, parse, parse_lines
from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.records import Count, RelativePath

FORMAT = 1

_HINT = "the plan is damaged or of another version: `cxr verify RUN --repair` sets it aside, and it is frozen anew"


@dataclass(frozen=True)
class Shard:
    """An id and a slice `[start, stop)` of the stage's items; `extra` holds what else defines its work (plain JSON).

    The id is a name, of which nothing is read. Ids and contents never depend on how many tasks or devices run.
    """

    __pydantic_config__ = STRICT

    id: Name
    start: Count
    stop: Count
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        return self.stop - self.start


class _NoParts(TypedDict):
    """Of a plan of before."""

    __pydantic_config__ = STRICT  # type: ignore[misc]


class _Parts(_NoParts):
    settings: dict[str, Any]
    seed: int
    code: Annotated[str, Field(pattern="^[0-9a-f]*$")]
    commit: str
    libraries: dict[str, str]
    files: dict[str, str]


class PlanHeader(TypedDict, total=False):
    """The first line of a plan: all but the shards."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    stage: Required[str]
    fingerprint: Required[str]
    num_shards: Required[Count]
    chain: bool
    files: dict[RelativePath, str]
    upstream: dict[str, str]
    image: str
    parts: _Parts | _NoParts
    format: Required[Annotated[int, Field(ge=FORMAT, le=FORMAT)]]


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

    def to_do(self, done: Collection[str] = (), parked: Collection[str] = ()) -> list[Shard]:
        """Shards that can be made now: none that is done or parked, and of a chain nothing behind a parked one."""
        missing = [shard for shard in self.shards if shard.id not in done]
        if self.chain:
            return list(takewhile(lambda shard: shard.id not in parked, missing))
        return [shard for shard in missing if shard.id not in parked]

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
        below(path.parent, 1).write(path.name, "".join(canonical_json(line) + "\n" for line in lines))

    @classmethod
    def read_header(cls, path: Path) -> PlanHeader:
        """The plan's first line. Raises FileNotFoundError, or BadFileError if it is damaged."""
        return _header(below(path.parent, 1).first_line(path.name), path)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan. Raises FileNotFoundError, or BadFileError if it is truncated, of another format, or names a
        shard twice."""
        first, *lines = below(path.parent, 1).read(path.name).splitlines() or [b""]
        header: dict[str, Any] = {**_header(first, path)}
        num_shards = header.pop("num_shards")
        shards = tuple(parse_lines(lines, Shard, path, first=2))
        if num_shards != len(shards):
            raise BadFileError(f"format {header['format']}, {len(shards)} of {num_shards} shards", path, _HINT)
        _check(shards, path)
        return cls(shards=shards, **header)


def _header(line: bytes, path: Path) -> PlanHeader:
    return parse(line, PlanHeader, path, line=1)


def _check(shards: Sequence[Shard], path: Path) -> None:
    """Raise BadFileError if shards cannot be told apart, end before they start, or follow one that is not there."""
    ids: set[str] = set()
    for number, shard in enumerate(shards, 2):
        if shard.id in ids:
            raise BadFileError(f"damaged: line {number}: shard {shard.id!r} is there twice", path, _HINT)
        before = shard.extra.get("after", "")
        if shard.stop < shard.start or not isinstance(before, str) or (before and before not in ids):
            raise BadFileError(f"damaged: line {number}: shard {shard.id!r} is no slice of the work", path, _HINT)
        ids.add(shard.id)


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
