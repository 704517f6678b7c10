"""A stage whose shards are tiny files and fail as they are told to: for tests of what happens around the work."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.runs.pack import Work
from cxr_core.runs.plan import Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import StageFolder
from cxr_core.runs.stage import Context, Draft, Estimate, Output
from cxr_core.settings import StageSettings


class TinyJob:
    """`trouble[shard id]` is called before the shard is made, and may raise; `words` are what its files say."""

    def __init__(self, num_shards: int, *, chain: bool = False) -> None:
        self.num_shards, self.chain = num_shards, chain
        self.trouble: dict[str, Callable[[], Any]] = {}
        self.order: list[str] = []
        self.words = "shard"

    def estimate(self, settings: Any, inputs: Mapping[str, Estimate | Path]) -> Estimate:
        return Estimate(self.num_shards, self.num_shards, self.num_shards, self.num_shards)

    def freeze(self, context: Context, work: Path) -> Draft:
        shards = slices(self.num_shards, 1)
        if self.chain:
            shards = tuple(
                Shard(s.id, s.start, s.stop, {"after": f"{i - 1:05d}"} if i else {}) for i, s in enumerate(shards)
            )
        return Draft(shards, self.chain)

    def run_shard(self, context: Context, shard: Shard, work: Path) -> Output:
        self.order.append(shard.id)
        self.trouble.get(shard.id, lambda: None)()
        path = work / "x.txt"
        path.write_text(f"{self.words} {shard.id} of seed {context.seed}\n")
        return Output({"text": path}, sha256_text(path.read_text()), {"lines": 1})

    def finalize(self, context: Context, receipts: Sequence[Receipt]) -> Mapping[str, Any]:
        return {"digest": sha256_text(canonical_json([receipt.digest for receipt in receipts]))}


def tiny_work(folder: Path, num_shards: int = 5, *, chain: bool = False) -> tuple[Work, TinyJob]:
    """A stage in `folder` and its job."""
    folder.mkdir(parents=True, exist_ok=True)
    job = TinyJob(num_shards, chain=chain)
    return Work(StageFolder(folder), job, Context(StageSettings(name="tiny"), {}, 7, folder), {}), job


def fail(error: Exception) -> Callable[[], Any]:
    """Trouble that raises `error`."""

    def raise_it() -> None:
        raise error

    return raise_it
