"""Shards in whose middle attempts were killed, time and again: what kills them may be the shard."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cxr_core.runs.ends import TIME_LIMIT, ended_by_itself, is_own_doing
from cxr_core.runs.failures import Failure, park_if_hopeless, parked
from cxr_core.runs.ledger import AttemptRecord, read_attempts
from cxr_core.runs.run import StageFolder


def blames_the_shard(attempt: AttemptRecord) -> bool:
    """Whether the shard at hand may be why an attempt was killed; a time limit counts where one shard had all of it."""
    if attempt.cause != "killed" or not attempt.shard:
        return False
    if attempt.why == TIME_LIMIT:
        return attempt.num_shards == 0
    # It may have met a full disk, and could not even say so.
    return is_own_doing(attempt.why) and not ended_by_itself(attempt.why)


def park_killers(folder: StageFolder) -> dict[str, str]:
    """Park shards of a stage in which three attempts were killed for the same cause. Returns shard -> cause."""
    kills: dict[str, list[Failure]] = {}
    for failure in _kills(folder.path):
        kills.setdefault(failure.shard, []).append(failure)
    aside = parked(folder.path)
    new: dict[str, str] = {}
    for shard, found in kills.items():
        if shard not in aside and not folder.is_done(shard):
            cause = park_if_hopeless(folder.path, shard, found)
            new |= {shard: cause} if cause else {}
    return new


def _kills(stage_folder: Path) -> Iterator[Failure]:
    for attempt in read_attempts(stage_folder):
        if blames_the_shard(attempt):
            text = f"the attempt on {attempt.node or attempt.host} was killed in the middle of it: {attempt.why}"
            moment = datetime.fromtimestamp(attempt.ended, UTC).isoformat(timespec="milliseconds")
            yield Failure(attempt.shard, attempt.id, attempt.why, text, attempt.lost, moment)
