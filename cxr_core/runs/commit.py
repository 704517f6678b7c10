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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from cxr_core.runs.content import settle, sha256_in
from cxr_core.runs.door import LONGEST_NAME, STRICT, Name, Place, below
from cxr_core.runs.files import json_text, remove
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
    with (below(stage_folder, 1) / "shards").make().held() as shards, shards.handle() as here:
        return tuple(_place_one(shards, here, shard, attempt, role, path) for role, path in paths.items())


def _place_one(shards: Place, here: int, shard: str, attempt: str, role: str, path: Path) -> Data:
    temporary = f".{shard}.{attempt}.{role}.tmp"
    _bring_near(path, here, temporary, shards.path / temporary)
    num_bytes, sha256 = settle(shards, temporary)  # refuses links and pipes: what is committed is files alone
    data = Data(role, f"{shard}-{sha256[:12]}{path.suffix}", num_bytes, sha256)
    try:
        os.rename(temporary, data.name, src_dir_fd=here, dst_dir_fd=here)
    except OSError as error:
        # A folder cannot replace a folder that is not empty: another attempt placed the same content first.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or sha256_in(shards, data.name) != sha256:
            raise
        shards.remove(temporary)
    os.fsync(here)
    return data


def _bring_near(path: Path, here: int, temporary: str, staged: Path) -> None:
    """Bring data into the file system of `shards/`, where a rename is atomic; a copy only if it lies elsewhere."""
    try:
        os.rename(path, temporary, dst_dir_fd=here)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if path.is_dir():
            shutil.copytree(path, staged, symlinks=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, staged, follow_symlinks=False)
        remove(path)


def commit(stage_folder: Path, receipt: Receipt, *, is_alive: Callable[[str], bool]) -> Commit:
    """Publish `receipt` if its shard has none yet; its data must have been placed.

    `is_alive` says whether an attempt still runs. It is asked only on file systems without hard links, where a claim
    file takes the place of the exclusive link and a dead claimant is succeeded. Raises BadFileError if what stands in
    its place is no receipt.
    """
    final = f"{receipt.shard}.json"
    temporary = f".{receipt.shard}.{receipt.attempt}.tmp"
    with (below(stage_folder, 1) / "receipts").make().held() as receipts, receipts.handle() as here:
        try:
            _write(receipts, here, temporary, receipt.to_json())
            won = _publish(receipts, here, temporary, final, receipt.attempt, is_alive)
        finally:
            _unlink(here, temporary)
        os.fsync(here)
        if won:
            return Commit("committed", receipt)
        standing = receipts.json(final, Receipt)
    if standing.attempt == receipt.attempt:
        return Commit("committed", standing)
    return Commit("duplicate" if standing.digest == receipt.digest else "differs", standing)


def _write(receipts: Place, here: int, name: str, text: str) -> None:
    """A new file, flushed; a leftover by its name is nobody's, since the name carries the attempt."""
    _unlink(here, name)
    with receipts.create(name) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _unlink(here: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=here)


def _publish(
    receipts: Place, here: int, temporary: str, final: str, attempt: str, is_alive: Callable[[str], bool]
) -> bool:
    try:
        os.link(temporary, final, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
    except FileExistsError:
        # NFS retransmits a link whose answer was lost and then reports our own success as a collision.
        ours, theirs = (os.stat(name, dir_fd=here, follow_symlinks=False) for name in (temporary, final))
        return ours.st_ino == theirs.st_ino
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _publish_by_claim(receipts, here, temporary, final, attempt, is_alive)
    return True


def _publish_by_claim(
    receipts: Place, here: int, temporary: str, final: str, attempt: str, is_alive: Callable[[str], bool]
) -> bool:
    """Without links: the holder of the last claim may rename. A claim of a dead attempt is succeeded by the next."""
    number = 0
    while not receipts.has(final):
        try:
            with receipts.create(_claim(final, number)) as file:
                file.write(attempt.encode())
        except FileExistsError:
            if _is_held(receipts, _claim(final, number), attempt, is_alive):
                time.sleep(_CLAIM_POLL)
            else:
                number += 1
            continue
        if receipts.has(final) or receipts.has(_claim(final, number + 1)):
            return False
        os.rename(temporary, final, src_dir_fd=here, dst_dir_fd=here)
        return True
    return False


def _claim(final: str, number: int) -> str:
    return f"{final.removesuffix('.json')}.{number}.claim"


def _is_held(receipts: Place, claim: str, attempt: str, is_alive: Callable[[str], bool]) -> bool:
    """Whether another attempt holds the claim and lives. One that is still empty was made a moment ago, or its maker
    died in that moment."""
    with receipts.open(claim) as file:
        holder, touched = file.read(LONGEST_NAME).decode(errors="replace"), os.fstat(file.fileno()).st_mtime
    if not holder:
        return time.time() - touched < _EMPTY_CLAIM
    return holder != attempt and is_alive(holder)


def sweep(stage_folder: Path, receipts: Iterable[Receipt]) -> list[str]:
    """Remove from `shards/` what no receipt names (lost races, crashed attempts); return the names removed.

    Call it only when every shard has its receipt: then whoever still writes can only lose.
    """
    named = {data.name for receipt in receipts for data in receipt.data}
    shards = below(stage_folder, 1) / "shards"
    strays = [entry.name for entry in shards.entries() if entry.name not in named]
    for name in strays:
        shards.remove(name)
    return strays


def prune(stage_folder: Path, receipt: Receipt, roles: Iterable[str], why: str) -> int:
    """Remove data that a keep rule no longer wants, after recording so in `pruned/`. Returns the bytes freed."""
    stage = below(stage_folder, 1)
    gone = [data for data in receipt.data if data.role in set(roles)]
    record = {"shard": receipt.shard, "why": why, "data": [data.name for data in gone]}
    (stage / "pruned").make().write(f"{receipt.shard}.json", json_text(record))
    for data in gone:
        (stage / "shards").remove(data.name)
    return sum(data.bytes for data in gone)


class Pruned(TypedDict):
    """A record in `pruned/`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    shard: Name
    why: str
    data: list[Name]
