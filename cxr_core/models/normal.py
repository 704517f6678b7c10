"""Standard normal numbers of a seed: all of its bits decide them, and every machine gets the same ones.

Only Philox's integers and sums, products, quotients and square roots of float64 are used, whose results IEEE 754 and
numpy promise to the last bit. `numpy.random.Generator` may change its normal numbers with a version (NEP 19), and
logarithms differ from one library to the next.
"""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

_CENTRE = (
    (
        *(3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125),
        *(45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    ),
    (
        *(1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077),
        *(21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
    ),
)
_TAIL = (
    (
        *(1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504),
        *(1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4),
    ),
    (
        *(1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550),
        *(0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
    ),
)
"""Numerator and denominator of algorithm AS 241 (Wichura 1988, Applied Statistics 37:477), lowest power first."""

_AT_ONCE = 1 << 14
"""Numbers that are computed together: what stays in a core's cache."""

_LOGARITHM = tuple(2 / (2 * power + 1) for power in range(12))
"""Of the series of log((1 + s) / (1 - s)) in s, of which only odd powers are there; s is at most 0.172."""


def standard_normal(seeds: Iterable[int], shape: Sequence[int], draw: int = 0) -> np.ndarray:
    """float32 (num_seeds, *shape): draw number `draw` of each seed in [0, 2**64), a function of these alone.

    A seed is the key of Philox 4x64 (Salmon et al. 2011, SC '11) and the draw a part of its counter, so that no two
    (seed, draw) share a number of the stream. The largest number is 6.3.
    """
    bits = np.concatenate([_bits(int(seed), draw, prod(shape)) for seed in seeds])
    found = np.empty(len(bits), np.float32)
    for start in range(0, len(bits), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = inverse_cdf((bits[part] + 0.5) / 2**32)
    return found.reshape(-1, *shape)


def _bits(seed: int, draw: int, num: int) -> np.ndarray:
    """uint32 (num,), the low half of each of Philox's integers first."""
    raw = np.random.Philox(key=seed, counter=[0, 0, 0, draw]).random_raw((num + 1) // 2)
    return raw.astype("<u8").view("<u4")[:num]


def inverse_cdf(shares: np.ndarray) -> np.ndarray:
    """The normal number below which a share lies: float64 of any shape, to 1e-15 of its value.

    Shares are at least 1.4e-11 away from 0 and 1; the least of 32 bits is 1.2e-10.
    """
    away = shares - 0.5
    found = away * _quotient(_CENTRE, 0.180625 - away * away)
    tails = np.abs(away) > 0.425
    outside = np.minimum(shares[tails], 1 - shares[tails])
    found[tails] = np.copysign(_quotient(_TAIL, np.sqrt(-_log(outside)) - 1.6), away[tails])
    return found


def _log(values: np.ndarray) -> np.ndarray:
    """Natural logarithm of positive float64."""
    mantissa, exponent = np.frexp(values)
    is_low = mantissa < 0.5**0.5
    mantissa, exponent = np.where(is_low, 2 * mantissa, mantissa), exponent - is_low
    s = (mantissa - 1) / (mantissa + 1)
    return exponent * 0.6931471805599453 + s * _polynomial(_LOGARITHM, s * s)


def _quotient(parts: tuple[Sequence[float], Sequence[float]], x: np.ndarray) -> np.ndarray:
    return _polynomial(parts[0], x) / _polynomial(parts[1], x)


def _polynomial(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    """By Horner's rule; `coefficients` begin with the lowest power."""
    total = np.full_like(x, coefficients[-1])
    for each in reversed(coefficients[:-1]):
        total *= x
        total += each
    return total
