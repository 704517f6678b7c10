"""The commit of one shard: data under content-addressed names, then one exclusive link of its receipt.

Two live writers of one shard are normal on a cluster (a requeued job beside a payload that outlived its node), so
the protocol is safe under any interleaving of any number of writers and a crash between any two calls:

1. data are flushed, read back and hashed, and renamed to `shards/<shard>-<sha12><ending>`: equal content, equal name;
2. the complete receipt is written beside its final name, flushed, and linked to `receipts/<shard>.json`. The link is
   the one exclusive act: the first complete attempt wins, and a later one learns whether it made the same.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxr_core.runs.files import fsync_dir, fsync_tree, remove, sha256_path, size_of, write_json
from cxr_core.runs.receipt import Data, Receipt

Outcome = Literal["committed", "duplicate", "differs"]

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}

_CLAIM_POLL = 1.0
"""Seconds between two looks at the claim of another live attempt."""

_EMPTY_CLAIM = 5.0
"""Seconds after which a claim without a name is nobody's."""


@dataclass(frozen=True)
class Commit:
    """How it ended: `receipt` is the one that stands, ours or the first writer's."""

    outcome: Outcome
    receipt: Receipt


def place(stage_folder: Path, shard: str, attempt: str, paths: Mapping[str, Path]) -> tuple[Data, ...]:
    """Move `paths` (role -> file or folder) to their content-addressed names in `shards/`, durably. Idempotent."""
    shards = stage_folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    return tuple(_place_one(shards, shard, attempt, role, path) for role, path in paths.items())


def _place_one(shards: Path, shard: str, attempt: str, role: str, path: Path) -> Data:
    staged = _bring_near(path, shards / f".{shard}.{attempt}.{role}.tmp")
    fsync_tree(staged)
    sha256 = sha256_path(staged)
    data = Data(role, f"{shard}-{sha256[:12]}{path.suffix}", size_of(staged), sha256)
    final = shards / data.name
    try:
        staged.rename(final)
    except OSError as error:
        # A folder cannot replace a folder that is not empty: another attempt placed the same content first.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or sha256_path(final) != sha256:
            raise
        remove(staged)
    fsync_dir(shards)
    return data


def _bring_near(path: Path, staged: Path) -> Path:
    """Bring data into the file system of `shards/`, where a rename is atomic; a copy only if it lies elsewhere."""
    try:
        path.rename(staged)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if path.is_dir():
            shutil.copytree(path, staged)
        else:
            shutil.copyfile(path, staged)
        remove(path)
    return staged


def commit(stage_folder: Path, receipt: Receipt, *, is_alive: Callable[[str], bool]) -> Commit:
    """Publish `receipt` if its shard has none yet; its data must have been placed.

    `is_alive` says whether an attempt still runs. It is asked only on file systems without hard links, where a claim
    file takes the place of the exclusive link and a dead claimant is succeeded.
    """
    receipts = stage_folder / "receipts"
    receipts.mkdir(parents=True, exist_ok=True)
    final = receipts / f"{receipt.shard}.json"
    temporary = receipts / f".{receipt.shard}.{receipt.attempt}.tmp"
    temporary.write_text(receipt.to_json())
    fsync_tree(temporary)
    try:
        won = _publish(temporary, final, receipt.attempt, is_alive)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(receipts)
    if won:
        return Commit("committed", receipt)
    standing = Receipt.read(final)
    if standing.attempt == receipt.attempt:
        return Commit("committed", standing)
    return Commit("duplicate" if standing.digest == receipt.digest else "differs", standing)


def _publish(temporary: Path, final: Path, attempt: str, is_alive: Callable[[str], bool]) -> bool:
    try:
        os.link(temporary, final)
    except FileExistsError:
        # NFS retransmits a link whose answer was lost and then reports our own success as a collision.
        return final.stat().st_ino == temporary.stat().st_ino
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _publish_by_claim(temporary, final, attempt, is_alive)
    return True


def _publish_by_claim(temporary: Path, final: Path, attempt: str, is_alive: Callable[[str], bool]) -> bool:
    """Without links: the holder of the last claim may rename. A claim of a dead attempt is succeeded by the next."""
    number = 0
    while not final.exists():
        try:
            with _claim(final, number).open("x") as file:
                file.write(attempt)
        except FileExistsError:
            if _is_held(_claim(final, number), attempt, is_alive):
                time.sleep(_CLAIM_POLL)
            else:
                number += 1
            continue
        if final.exists() or _claim(final, number + 1).exists():
            return False
        temporary.rename(final)
        return True
    return False


def _claim(final: Path, number: int) -> Path:
    return final.with_name(f"{final.stem}.{number}.claim")


def _is_held(claim: Path, attempt: str, is_alive: Callable[[str], bool]) -> bool:
    """Whether another attempt holds the claim and lives. One that is still empty was made a moment ago, or its maker
    died in that moment."""
    holder = claim.read_text()
    if not holder:
        return time.time() - claim.stat().st_mtime < _EMPTY_CLAIM
    return holder != attempt and is_alive(holder)


def sweep(stage_folder: Path, receipts: Iterable[Receipt]) -> list[str]:
    """Remove from `shards/` what no receipt names (lost races, crashed attempts); return the names removed.

    Call it only when every shard has its receipt: then whoever still writes can only lose.
    """
    named = {data.name for receipt in receipts for data in receipt.data}
    shards = stage_folder / "shards"
    strays = sorted(entry.name for entry in os.scandir(shards) if entry.name not in named) if shards.is_dir() else []
    for name in strays:
        remove(shards / name)
    return strays


def prune(stage_folder: Path, receipt: Receipt, roles: Iterable[str], why: str) -> int:
    """Remove data that a keep rule no longer wants, after recording so in `pruned/`. Returns the bytes freed."""
    gone = [data for data in receipt.data if data.role in set(roles)]
    record = stage_folder / "pruned" / f"{receipt.shard}.json"
    record.parent.mkdir(exist_ok=True)
    write_json(record, {"shard": receipt.shard, "why": why, "data": [data.name for data in gone]})
    for data in gone:
        remove(stage_folder / "shards" / data.name)
    return sum(data.bytes for data in gone)
