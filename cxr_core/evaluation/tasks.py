"""What a shard of an evaluate stage does, and with whose images: its `extra` says so, its id is a name."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from cxr_core.runs.plan import Shard, slices

EXTRACTORS = ("judge", "model")
"""Kinds of shards that extract features: by the judge, or by the model that `features` names."""
LOOK, SEARCH, PERSON = "copies", "search", "person"
"""Of memorisation: thumbnails and spectra; searches for copies; a network that tells patients apart."""
ALIKE = "alike"
"""Of diversity: pairs of images."""
POSITION, POSITION_PICTURES = "position", "position pictures"
"""Of positions: boxes that the localiser finds, and pictures of some."""


class Task(NamedTuple):
    """The kind of work, and the source of the images that it looks at or for: `real`, `synthetic`, a point of a sweep
    (`p00` ...), or what a kind says; empty where there is none."""

    kind: str
    source: str = ""

    @property
    def extra(self) -> dict[str, Any]:
        """What a shard's `extra` holds of it."""
        return {"kind": self.kind, **({"source": self.source} if self.source else {})}


def task_shard(id_: str, task: Task, start: int = 0, stop: int = 1) -> Shard:
    """A shard that does one task."""
    return Shard(id_, start, stop, task.extra)


def task_slices(num_items: int, shard_size: int, task: Task) -> tuple[Shard, ...]:
    """Slices of a task's items, named by it."""
    parts = slices(num_items, shard_size, prefix=f"{task.kind}-{task.source}-")
    return tuple(task_shard(part.id, task, part.start, part.stop) for part in parts)


def task_of(shard: Shard) -> Task:
    """What a shard does; an empty kind where it is of a part that says otherwise (`utility`, `benefit`)."""
    if "kind" in shard.extra:
        return Task(str(shard.extra["kind"]), str(shard.extra.get("source", "")))
    return _of_before(shard.id)


def shards_of(shards: Sequence[Shard], kinds: Collection[str], source: str | None = None) -> list[Shard]:
    """Those that do work of some kinds, and of one source where it is named; in the order of the plan."""
    tasks = ((shard, task_of(shard)) for shard in shards)
    return [shard for shard, task in tasks if task.kind in kinds and source in (None, task.source)]


_OF_BEFORE: Mapping[str, Task] = {"person-00000": Task(PERSON), "position-pictures": Task(POSITION_PICTURES)}
_NAME_OF_BEFORE = re.compile(r"(judge|model|copies|search|alike|position)-(\w+?)(?:-\d{5,})?")


def _of_before(shard_id: str) -> Task:
    """Of a shard in a plan of before, which said it in its id alone."""
    found = _NAME_OF_BEFORE.fullmatch(shard_id)
    return _OF_BEFORE.get(shard_id) or (Task(found[1], found[2]) if found else Task(""))
