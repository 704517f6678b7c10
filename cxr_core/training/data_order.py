"""Which image comes at which step, and all randomness of training: functions of (seed, step, position), never of state.

A position is a place in the global batch, so nothing here depends on how many devices share the batch, on where a run
was interrupted, or on what was drawn before.
"""

from functools import lru_cache

import numpy as np

from cxr_core.seeds import derive_seed


class DataOrder:
    """Batches of `batch_size` out of `num_rows` rows: every epoch a new permutation, epochs following without a gap."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed

    def batch(self, step: int) -> np.ndarray:
        """Rows at `step` (from 0): int64 (batch_size,)."""
        return self.rows(step * self.batch_size, (step + 1) * self.batch_size)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The `start`-th row that is shown to the one before the `stop`-th, however large batches are: int64."""
        places = np.arange(start, stop)
        epochs = places // self.num_rows
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            order = _permutation(self.num_rows, derive_seed(self.seed, "epoch", int(epoch)))
            rows[epochs == epoch] = order[places[epochs == epoch] % self.num_rows]
        return rows

    def counts(self, steps: int) -> np.ndarray:
        """How often each row comes in the first `steps` steps: int64 (num_rows,)."""
        epochs, rest = divmod(steps * self.batch_size, self.num_rows)
        times = np.full(self.num_rows, epochs)
        times[_permutation(self.num_rows, derive_seed(self.seed, "epoch", epochs))[:rest]] += 1
        return times


def spread(num: int, share: float) -> np.ndarray:
    """Which of `num` positions belong to a share of them, as evenly among the others as it goes: bool (num,)."""
    return np.diff(np.floor(np.arange(num + 1) * share)) > 0


def some(num_rows: int, num: int, seed: int) -> np.ndarray:
    """At most `num` of the rows, always the same ones: int64."""
    return _permutation(num_rows, seed)[:num]


@lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).permutation(num_rows)


def stream(seed: int, step: int, position: int) -> np.random.Generator:
    """The random numbers of one place in one step: a Philox counter of its own (Salmon et al. 2011, SC '11)."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, position, step]))
