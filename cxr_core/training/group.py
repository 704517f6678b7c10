"""The starter of ranks: starts those of this machine, gives them intervals to train, and watches over all of them.

torchrun does not serve: its agents and ranks meet by torch's TCPStore, which believes whoever connects.

It is no rank itself, so that it can tell how any of them died, end those that hang, and record it as it does with any
other shard that fails.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.runs.files import write_json
from cxr_core.runs.plan import Shard
from cxr_core.runs.progress import Bar, bar, heartbeat
from cxr_core.runs.stage import Context, Output
from cxr_core.training.rendezvous import (
    ANSWER,
    BEAT_EVERY,
    GROUP,
    ORDER,
    PREFLIGHT,
    About,
    Heard,
    Meeting,
    Order,
    Preflight,
    RankAnswer,
    Words,
    beat_name,
    log_name,
    published,
    words_name,
    words_of,
)

log = room_log(__name__)

_LOOK_EVERY = 0.2
_SETTLE = 4.0
"""Seconds between the first sign that something is wrong and the judgement which rank began it: when one dies, the
others fail too, of a connection that broke. Well below Slurm's KillWait (30 by default), with which srun ends us."""
_BEATS_MISSED = 2.5
"""Seconds without a beat after which a rank that said nothing is held to be the cause when others fail."""
_FIRST_BEAT = 600.0
"""Seconds that a rank may need to start: on a cluster, a container's image may have to be opened on each node."""
_END_SECONDS = 30.0


class RankError(UserError):
    """A rank died, hung or failed. Its `cause` is what is counted when failures of a shard are."""

    def __init__(self, what: str, *, cause: str, where: str) -> None:
        super().__init__(what, where=where, hint="run again: training goes on from the last checkpoint")
        self.cause = cause


@dataclass
class _Last:
    """The last beat of a rank, and when it changed by our own clock: those of nodes may differ."""

    beat: Heard | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def silence(self) -> float:
        return time.monotonic() - self.at


class Group(AbstractContextManager["Group"]):
    """All ranks of a stage, from the first interval that this attempt trains to its last.

    `folder` is where they meet, new or empty. `started_here` are those that this process starts (default: all); others
    are started elsewhere and find the folder by themselves. `gpus` is what the scheduler gave each node.
    """

    def __init__(
        self,
        context: Context,
        folder: Path,
        *,
        started_here: Sequence[int] | None = None,
        gpus: int | None = None,
    ) -> None:
        self.context, self.folder, self.ranks = context, folder, context.settings.ranks
        here = list(range(self.ranks.num)) if started_here is None else list(started_here)
        num_local = self.ranks.num if started_here is None else self.ranks.per_node
        self._number = 0
        self._heard = {rank: _Last() for rank in range(self.ranks.num)}
        self._num_strangers, self._looked = 0, 0.0
        self._wrong_since: float | None = None
        self._is_idle = True
        self._meeting = Meeting.call(folder)
        self._meeting.put(GROUP, self._about(num_local, gpus))
        self._processes = {rank: self._start(rank) for rank in here}

    def __exit__(self, *error: object) -> None:
        if self._is_idle:
            self._meeting.put(ORDER, Order(self._number + 1))
            self._wait_for_ends()
        for process in self._processes.values():
            process.kill()  # also one that was stopped
            process.wait()
        self._meeting.end()

    def train(self, shard: Shard, work: Path) -> Output:
        """Let the ranks train one interval into `work`.

        Raises RankError naming the rank that died or hung, and UserError as a rank raised it.
        """
        self._number, self._is_idle = self._number + 1, False
        for heard in self._heard.values():
            heard.at = time.monotonic()  # nobody listened while the interval before was committed
        self._meeting.remove(ANSWER)
        self._meeting.put(ORDER, Order(self._number, shard, str(work)))
        with bar(self._label, shard.num_items) as progress:
            shown = 0
            while (answer := self._answer()) is None:
                shown = self._show(progress, shown, shard)
                self._watch()
                time.sleep(_LOOK_EVERY)
        self._is_idle = True
        self._publish()
        paths = {role: Path(path) for role, path in answer.paths.items()}
        return Output(paths, answer.digest, answer.counts, seconds=answer.seconds)

    @cached_property
    def _met(self) -> str:
        """How fast the ranks talk, and by what, in words; asked once they have met."""
        preflight = self._meeting.get(PREFLIGHT, Preflight)
        if preflight is None:
            return ""
        return words_of(preflight.as_facts)

    def _publish(self) -> None:
        """Repeat what the ranks measured where all may read it who may read the run."""
        preflight = self._meeting.get(PREFLIGHT, Preflight)
        if preflight and not published(self.folder).exists():
            write_json(published(self.folder), preflight.as_facts)

    def _about(self, num_local: int, gpus: int | None) -> About:
        context = self.context
        inputs = {role: str(path) for role, path in context.inputs.items()}
        settings = context.settings.model_dump(mode="json")
        return About(settings, inputs, context.seed, str(context.folder), self.ranks.num, num_local, gpus)

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "cxr_core.training.rank", str(self.folder), str(rank), str(rank)]
        threads = {"OMP_NUM_THREADS": str(self.context.settings.threads)}
        with os.fdopen(self._meeting.log(rank), "ab") as log:
            # A session of its own: Ctrl-C is ours to handle.
            return subprocess.Popen(
                words,
                env=os.environ | threads,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answer(self) -> RankAnswer | None:
        answer = self._meeting.get(ANSWER, RankAnswer)
        return answer if answer and answer.number == self._number else None

    def _show(self, progress: Bar, shown: int, shard: Shard) -> int:
        """What rank 0 says of its progress. Returns how many steps are shown."""
        said, beat = self._heard[0].beat, heartbeat.get()
        values = dict(said.progress) if said and said.number == self._number else {}
        label, done, _ = (values.pop(name, None) for name in ("doing", "done", "total"))
        if label == self._label and done > shown:
            progress.advance(done - shown, **values)
            return int(done)
        if beat is not None:
            told = {"ranks": self._met} if values else {}
            beat({"doing": self._label, "done": shown, "total": shard.num_items, **values, **told})
        return shown

    @property
    def _label(self) -> str:
        """As `interval` calls its bar."""
        return f"{self.context.settings.name} training"

    def _watch(self) -> None:
        """Raise what went wrong, once it is clear which rank began it."""
        if time.monotonic() - self._looked < BEAT_EVERY:
            return
        self._looked = time.monotonic()
        for rank, heard in self._heard.items():
            beat = self._meeting.get(beat_name(rank), Heard)
            if beat is not None and beat != heard.beat:
                self._heard[rank] = _Last(beat)
                self._tell_of_strangers(beat.strangers)
        self._raise_if_silent()
        if self._gone() or any(self._meeting.has(words_name(rank)) for rank in self._heard):
            self._wrong_since = self._wrong_since or time.monotonic()
            if time.monotonic() - self._wrong_since > _SETTLE:
                raise self._cause()

    def _tell_of_strangers(self, num: int) -> None:
        if num > self._num_strangers:
            self._num_strangers = num
            log.warning(
                "%d connection(s) to the ranks of stage %r were turned away: who made them does not know the ranks' "
                "secret. From where: %s",
                num,
                self.context.settings.name,
                self._log(0),
            )

    def _log(self, rank: int) -> Path:
        return self.folder / log_name(rank)

    def _raise_if_silent(self) -> None:
        for rank, heard in self._heard.items():
            bound = self.ranks.silent_seconds if heard.beat else max(_FIRST_BEAT, self.ranks.silent_seconds)
            if heard.silence > bound and rank not in self._gone() and not self._wrong_since:
                self._wrong_since = time.monotonic()
                what = f"was not heard for {heard.silence:.0f} s: it hangs, was stopped, or its node is gone"
                raise self._error(rank, what, "timeout")

    def _gone(self) -> dict[int, int]:
        """Exit status of each rank started here that has ended without a word."""
        ended = {rank: process.poll() for rank, process in self._processes.items()}
        return {
            rank: code for rank, code in ended.items() if code is not None and not self._meeting.has(words_name(rank))
        }

    def _cause(self) -> UserError:
        """Who was refused something comes first, then who died without a word, then whoever failed first."""
        words = {rank: said for rank in self._heard if (said := self._meeting.get(words_name(rank), Words))}
        for rank, user in ((rank, said.user) for rank, said in words.items() if said.user):
            # What all ranks say alike is of no one of them.
            alike = sum(said.user == user for said in words.values()) == self.ranks.num
            where = user.where if alike else f"rank {rank}: {user.where}"
            return UserError(user.what, where=where, hint=user.hint)
        for rank, code in self._gone().items():
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
            return self._error(rank, how, "signal" if code < 0 else "rank ended")
        for rank, heard in self._heard.items():
            if rank not in words and heard.silence > _BEATS_MISSED:
                return self._error(rank, "died without a word, or was stopped", "rank died")
        rank = min(words, key=lambda each: words[each].time)
        return self._error(rank, f"failed: {words[rank].text}", "rank failed")

    def _error(self, rank: int, what: str, cause: str) -> RankError:
        beat = self._heard[rank].beat
        at = f" at step {beat.step + 1}" if beat and beat.step is not None else ""
        name = f"rank {rank} on {beat.host} (process {beat.pid})" if beat else f"rank {rank}, which never came,"
        text = f"{name} {what}{at}.{self._behind(rank)} Its log: {self._log(rank)}"
        return RankError(text, cause=cause, where=f"stage {self.context.settings.name!r}")

    def _behind(self, named: int) -> str:
        """Which ranks the others waited for, as far as their steps tell."""
        beats = {rank: heard.beat for rank, heard in self._heard.items() if heard.beat}
        steps = {rank: beat.step for rank, beat in beats.items() if beat.step is not None}
        last = max(steps.values(), default=0)
        behind = [rank for rank, step in steps.items() if step < last]
        if named in behind:
            return f" The others were at step {last + 1}."
        return f" Behind it were ranks {', '.join(map(str, behind))}." if behind else ""

    def _wait_for_ends(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
