"""Student's distribution, and the power of its test. numpy only.

The tail is an incomplete beta function, P(|T| > t) = I_x(df / 2, 1 / 2) with x = df / (df + t^2),
by its continued fraction (Lentz's way of evaluating it). Fractional and infinite degrees of freedom
are allowed.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

TINY = 1e-300
PRECISION = 1e-14
MOST_TERMS = 20_000  # enough for 1e8 degrees of freedom
MOST_STEPS = 500  # of Newton; each doubles t in the heaviest tails
NORMAL = 1e6  # from so many degrees on the normal distribution, to 1e-6 of a probability
NODES = 160  # of the mean over estimated deviations


def two_sided(t: npt.ArrayLike, df: npt.ArrayLike) -> FloatArray:
    """P(|T| > |t|) for Student's T, element by element; NaN where t or df is."""
    distance, degrees = np.broadcast_arrays(
        np.abs(np.asarray(t, dtype=np.float64)), np.asarray(df, dtype=np.float64)
    )
    tail = np.full(distance.shape, np.nan)
    known = ~np.isnan(distance) & (degrees > 0)
    normal = known & (degrees >= NORMAL)
    tail[normal] = [math.erfc(d / math.sqrt(2)) for d in distance[normal].tolist()]
    student = known & ~normal
    with np.errstate(over="ignore"):
        square = distance[student] ** 2
    tail[student] = _beta_tail(square, degrees[student])
    return tail


@cache
def quantile(probability: float, df: float) -> float:
    """t with P(T <= t) = `probability`, to about 1e-12; `probability` in (0, 1), df > 0.

    Newton's steps from 0: the tail is convex, so that none goes too far.
    """
    if df >= NORMAL:
        return NormalDist().inv_cdf(probability)
    target = 2 * min(probability, 1 - probability)
    log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    t = 0.0
    for _ in range(MOST_STEPS):
        density = math.exp(log_density - (df + 1) / 2 * math.log1p(t * t / df))
        step = (_tail(t, df) - target) / (2 * density)
        t += step
        if step <= PRECISION * t:
            break
    return math.copysign(t, probability - 0.5)


def power(shift: float, df: float, alpha: float) -> float:
    """The chance that a two-sided test at `alpha` rejects where T is off by `shift` errors.

    T = (Z + shift) / s with s^2 = chi^2_df / df: the mean over s of the chance that
    |Z + shift| > t s.
    """
    return _power(shift, quantile(1 - alpha / 2, df), _deviations(df))


def detectable(df: float, alpha: float, chance: float = 0.8) -> float:
    """The shift, in standard errors, that the test at `alpha` finds with this `chance`."""
    critical, deviations = quantile(1 - alpha / 2, df), _deviations(df)
    low, high = 0.0, critical
    while _power(high, critical, deviations) < chance:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        found = _power(middle, critical, deviations) < chance
        low, high = (middle, high) if found else (low, middle)
    return (low + high) / 2


def _power(shift: float, critical: float, deviations: Sequence[tuple[float, float]]) -> float:
    root = math.sqrt(2)
    beyond = (
        weight
        * (math.erfc((critical * s - shift) / root) + math.erfc((critical * s + shift) / root))
        for s, weight in deviations
    )
    return sum(beyond) / 2


def _deviations(df: float) -> list[tuple[float, float]]:
    """Values of s with s^2 = chi^2_df / df, and their chances: equal steps of log s."""
    if df >= NORMAL:
        return [(1.0, 1.0)]
    width = 12 / math.sqrt(2 * df)
    low, high = -width - 6 * (df < 6), min(width, 3.0)  # few degrees: much weight near s = 0
    step = (high - low) / NODES
    logs = [low + (node + 0.5) * step for node in range(NODES)]
    weights = [math.exp(df * (log - (math.exp(2 * log) - 1) / 2)) for log in logs]
    total = sum(weights)
    return [(math.exp(log), w / total) for log, w in zip(logs, weights, strict=True) if w > 0]


def _beta_tail(square: FloatArray, df: FloatArray) -> FloatArray:
    """I_x(df / 2, 1 / 2), x = df / (df + square), by whichever fraction converges fast."""
    a, b = df / 2, np.full(df.shape, 0.5)
    x = df / (df + square)
    swap = x > (a + 1) / (a + b + 2)
    first, second = np.where(swap, b, a), np.where(swap, a, b)
    rest = 1 / (1 + df / np.maximum(square, TINY))  # 1 - x, without cancellation
    at, other = np.where(swap, rest, x), np.where(swap, x, rest)
    logs = [math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q) for p, q in zip(a, b, strict=True)]
    with np.errstate(divide="ignore"):
        front = np.exp(np.array(logs) + first * np.log(at) + second * np.log(other))
    value = front / first * _fraction(first, second, at)
    tail: FloatArray = np.where(swap, 1 - value, value)
    return tail


def _fraction(a: FloatArray, b: FloatArray, x: FloatArray) -> FloatArray:
    """The continued fraction of the incomplete beta function."""
    c = np.ones_like(x)
    d = 1 / _away(1 - (a + b) * x / (a + 1))
    total = d.copy()
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            change = c * d
            total = total * change
        if not total.size or np.abs(change - 1).max() < PRECISION:
            break
    return total


def _away(values: FloatArray) -> FloatArray:
    """Away from zero, which a fraction is divided by."""
    return np.where(np.abs(values) < TINY, TINY, values)


def _tail(t: float, df: float) -> float:
    """`two_sided` of one value, without arrays."""
    a, b, x, rest = df / 2, 0.5, df / (df + t * t), t * t / (df + t * t)
    swap = x > (a + 1) / (a + b + 2)
    if swap:
        a, b, x, rest = b, a, rest, x
    if x == 0:
        return 1.0 if swap else 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + (b * math.log(rest) if rest > 0 else 0.0)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            total *= c * d
        if abs(c * d - 1) < PRECISION:
            break
    value = math.exp(log_front) / a * total
    return 1 - value if swap else value
