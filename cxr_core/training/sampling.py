"""Which training images an epoch shows, and how often: a function of labels and seed, counted beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.data.latents import LatentCache
from cxr_core.data.positions.phrases import parse, unplaced
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import DataOrder
from cxr_core.training.settings import DiffusionTrain, Sampling

FORMAT = 1
FILE = "sampling.json"


@dataclass(frozen=True)
class Source:
    """Images of a latent cache in the order in which training shows them; an epoch is `rows` once."""

    cache: LatentCache
    rows: np.ndarray
    order: DataOrder

    def at(self, step: int) -> np.ndarray:
        """Rows of the cache that are shown at `step` (from 0): int64 (order.batch_size,)."""
        return self.rows[self.order.batch(step)]

    def times(self, steps: int) -> np.ndarray:
        """How often each row of the cache is shown in the first `steps` steps: int64 (num_images,)."""
        return np.bincount(self.rows, self.order.counts(steps), len(self.cache.rows)).astype(int)


@dataclass(frozen=True)
class Batches:
    """The global batch of each step: positions where `is_prior` show images of `prior`, the others those of `real`."""

    real: Source
    prior: Source | None
    is_prior: np.ndarray

    def at(self, step: int) -> list[tuple[LatentCache, int]]:
        """Cache and row of each position at `step` (from 0)."""
        sources = (self.real, self.prior) if self.prior else (self.real,)
        rows = [iter(source.at(step).tolist()) for source in sources]
        return [(sources[kind].cache, next(rows[kind])) for kind in self.is_prior.astype(int).tolist()]

    def weights(self, prior_weight: float) -> np.ndarray:
        """Of each position, so that the weighed errors' mean is the real images' mean + weight * that of the prior's:
        float32 (positions,). Ruiz et al. 2022, arXiv 2208.12242, equation 2."""
        num, num_prior = len(self.is_prior), int(self.is_prior.sum())
        prior = prior_weight * num / max(num_prior, 1)
        return np.where(self.is_prior, prior, num / (num - num_prior)).astype(np.float32)


def batches(cache: LatentCache, prior: LatentCache | None, settings: DiffusionTrain, seed: int) -> Batches:
    """What a stage shows at every step. Of a prior's images those held out are left out."""
    is_prior = settings.prior_positions
    real = training_source(cache, settings, seed)
    if prior is None:
        return Batches(real, None, is_prior)
    rows = np.flatnonzero(prior.rows["split"].to_numpy() != "val")
    order = DataOrder(len(rows), int(is_prior.sum()), derive_seed(seed, "prior order"))
    return Batches(real, Source(prior, rows, order), is_prior)


def training_source(cache: LatentCache, settings: DiffusionTrain, seed: int) -> Source:
    """The training images of `cache`, those of rare findings oftener where `settings.sampling` says so."""
    num = int((~settings.prior_positions).sum())
    train = cache.indices("train")
    labels, places = cache.rows["labels"].to_numpy()[train], said_places(cache)[train]
    rows = drawn(train, labels, settings.sampling, derive_seed(seed, "repeats"), places)
    return Source(cache, rows, DataOrder(len(rows), num, derive_seed(seed, "order")))


def unplaced_prompts(cache: LatentCache) -> dict[str, str]:
    """Each prompt of a cache that says where a finding is, and the same without places."""
    plain = {prompt: unplaced(prompt, cache.info.findings) for prompt in cache.rows["prompt"].unique()}
    return {prompt: text for prompt, text in plain.items() if text != prompt}


def said_places(cache: LatentCache) -> np.ndarray:
    """A number for what each row's prompt says of places, 0 where it says none: int64 (num_images,)."""
    findings = cache.info.findings
    said = {text: frozenset(one.said for one in parse(text, findings)) for text in unplaced_prompts(cache)}
    numbers = {what: i for i, what in enumerate(dict.fromkeys(said.values()), 1)}
    return cache.rows["prompt"].map({text: numbers[what] for text, what in said.items()}).fillna(0).to_numpy(np.int64)


def drawn(
    rows: np.ndarray, labels: np.ndarray, sampling: Sampling, seed: int, places: np.ndarray | None = None
) -> np.ndarray:
    """`rows` as often as an epoch shows them: int64. `labels` (as long as `rows`) are bits of findings; `places` number
    what is said of their places, see `said_places`.

    A row is repeated by its factor, of which the fraction is a chance that is drawn once.
    """
    places = np.zeros_like(labels) if places is None else places
    factors = _factors(labels, places, sampling)
    if sampling.min_positioned_share is not None:
        factors = _with_share(factors, places > 0, sampling.min_positioned_share)
    factors = factors.clip(max=sampling.max_repeats)
    chance = np.random.Generator(np.random.Philox(seed)).random(len(rows))
    return np.repeat(rows, np.floor(factors + chance).astype(int))


def _factors(labels: np.ndarray, places: np.ndarray, sampling: Sampling) -> np.ndarray:
    if sampling.repeat_threshold is not None:
        return _by_rarest_finding(labels, sampling.repeat_threshold)
    if sampling.frequency_exponent is not None:
        return _by_combination(np.stack([labels, places]), sampling.frequency_exponent)
    return np.ones(len(labels))


def _with_share(factors: np.ndarray, placed: np.ndarray, share: float) -> np.ndarray:
    """The factors, those where `placed` raised until they are a share of all, never lowered."""
    have, rest = factors[placed].sum(), factors[~placed].sum()
    wanted = share / (1 - share) * rest
    return np.where(placed, factors * max(1.0, wanted / have), factors) if have else factors


def _by_rarest_finding(labels: np.ndarray, below: float) -> np.ndarray:
    """A finding with share f < `below` has the factor sqrt(below / f); a row that of its rarest, and at least 1.

    Gupta et al. 2019, arXiv 1908.03195, section 4.2.
    """
    factors = np.ones(len(labels))
    for bit in range(int(labels.max(initial=0)).bit_length()):
        has = labels >> bit & 1 == 1
        if has.any():
            factors[has] = np.maximum(factors[has], np.sqrt(below / has.mean()))
    return factors


def _by_combination(combinations: np.ndarray, power: float) -> np.ndarray:
    """A combination (column) of n images has the factor (most / n) ** (1 - power): its share goes as n ** power."""
    _, which, sizes = np.unique(combinations, axis=1, return_inverse=True, return_counts=True)
    return ((sizes.max() / sizes) ** (1 - power))[which]


def realised(source: Source, steps: int) -> dict[str, Any]:
    """What sampling.json says: of each finding and each combination how many images there are, and how many times any
    of them is shown in `steps` steps. Exact, since the order is a function of the seed."""
    findings, labels = Findings(source.cache.info.findings), source.cache.rows["labels"].to_numpy()
    train, times = np.zeros(len(labels), int), source.times(steps)
    train[source.cache.indices("train")] = 1
    has = {name: labels & findings.bit(name) > 0 for name in findings.names} | {NO_FINDING: labels == 0}
    together = {findings.text(int(bits)): labels == bits for bits in np.unique(labels[train > 0])}
    return {
        "format": FORMAT,
        "steps": steps,
        "images": int(train.sum()),
        "shown": int(times.sum()),
        "never_shown": int(((train > 0) & (times == 0)).sum()),
        "findings": _table(has, train, times),
        "combinations": _table(together, train, times),
    }


def _table(groups: Mapping[str, np.ndarray], train: np.ndarray, times: np.ndarray) -> dict[str, dict[str, int]]:
    """The commonest group first."""
    counted = {name: {"images": int(train[has].sum()), "shown": int(times[has].sum())} for name, has in groups.items()}
    return dict(sorted(counted.items(), key=lambda item: -item[1]["images"]))
