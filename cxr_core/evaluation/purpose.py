"""What a shard of an evaluate stage is for: its `extra` says so, and its id is a name."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from cxr_core.runs.plan import Shard, slices

EXTRACTORS = ("judge", "model")
"""Kinds of shards that extract features: by the judge, or by the model that `features` names."""
DESCRIPTORS, SEARCH, PERSON = "copies", "search", "person"
"""Of memorisation: thumbnails and spectra; searches for copies; a network that tells patients apart."""
ALIKE = "alike"
"""Of diversity: pairs of images."""
POSITION, POSITION_PICTURES = "position", "position pictures"
"""Of positions: boxes that the localiser finds, and pictures of some."""


class Purpose(NamedTuple):
    """The kind of work, and the source of the images that it looks at or for: `real`, `synthetic`, a point of a sweep
    (`p00` ...), or what a kind says; empty where there is none."""

    kind: str
    source: str = ""

    @property
    def extra(self) -> dict[str, Any]:
        """What a shard's `extra` holds of it."""
        return {"kind": self.kind, **({"source": self.source} if self.source else {})}


def shard_for(id_: str, purpose: Purpose, start: int = 0, stop: int = 1) -> Shard:
    """A shard with one purpose."""
    return Shard(id_, start, stop, purpose.extra)


def slices_for(num_items: int, shard_size: int, purpose: Purpose) -> tuple[Shard, ...]:
    """Slices of the items of a purpose, named by it."""
    parts = slices(num_items, shard_size, prefix=f"{purpose.kind}-{purpose.source}-")
    return tuple(shard_for(part.id, purpose, part.start, part.stop) for part in parts)


def purpose_of(shard: Shard) -> Purpose:
    """What a shard does; an empty kind where it is of a part that says otherwise (`utility`, `benefit`)."""
    if "kind" in shard.extra:
        return Purpose(str(shard.extra["kind"]), str(shard.extra.get("source", "")))
    return _of_before(shard.id)


def shards_for(shards: Sequence[Shard], kinds: Collection[str], source: str | None = None) -> list[Shard]:
    """Those that do work of some kinds, and of one source where it is named; in the order of the plan."""
    known = ((shard, purpose_of(shard)) for shard in shards)
    return [shard for shard, purpose in known if purpose.kind in kinds and source in (None, purpose.source)]


_OF_BEFORE: Mapping[str, Purpose] = {"person-00000": Purpose(PERSON), "position-pictures": Purpose(POSITION_PICTURES)}
_NAME_OF_BEFORE = re.compile(r"(judge|model|copies|search|alike|position)-(\w+?)(?:-\d{5,})?")


def _of_before(shard_id: str) -> Purpose:
    """Of a shard in a plan of before, which said it in its id alone."""
    found = _NAME_OF_BEFORE.fullmatch(shard_id)
    return _OF_BEFORE.get(shard_id) or (Purpose(found[1], found[2]) if found else Purpose(""))
