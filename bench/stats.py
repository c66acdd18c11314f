"""What samples say: the middle, the tail, the spread, and how sure that is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
_RESAMPLES = 2000
_SEED = 5227
_LEAST_POINTS = 3


class Summary(NamedTuple):
    """Of the samples of one metric."""

    samples: int
    median: float
    p99: float
    low: float
    """First and ..."""
    high: float
    """... third quartile: half of the samples lie between them."""
    sure_low: float
    """In between the true median lies, with `CONFIDENCE`."""
    sure_high: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles."""
        return self.high - self.low


class Share(NamedTuple):
    """How many of the samples are 1, and between which shares the true one lies, with `CONFIDENCE`."""

    hits: int
    samples: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of the samples."""
        return self.hits / self.samples if self.samples else float("nan")


class Power(NamedTuple):
    """y = factor * x ** exponent, fitted; the exponent's interval at `CONFIDENCE`."""

    factor: float
    exponent: float
    low: float
    high: float


def summary(samples: Sequence[float]) -> Summary | None:
    """Of at least one sample."""
    if not samples:
        return None
    data = np.asarray(samples, dtype=float)
    low, median, high, p99 = (float(q) for q in np.quantile(data, [0.25, 0.5, 0.75, 0.99]))
    sure_low, sure_high = interval(samples)
    return Summary(len(samples), median, p99, low, high, sure_low, sure_high)


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """Of the median, by the bootstrap (percentiles of resampled medians); from a seed, so the same for the same."""
    data = np.asarray(samples, dtype=float)
    picks = np.random.default_rng(_SEED).integers(0, len(data), (_RESAMPLES, len(data)))
    medians = np.median(data[picks], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def share(samples: Sequence[float]) -> Share:
    """By Wilson's interval, which holds where the share is near 0 or 1 too."""
    hits, count = sum(1 for sample in samples if sample), len(samples)
    if not count:
        return Share(0, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)
    p = hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return Share(hits, count, max(0.0, middle - half), min(1.0, middle + half))


def power(xs: Sequence[float], ys: Sequence[float]) -> Power | None:
    """Least squares on logarithms; None where fewer than three different x have a positive y."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0]
    if len({x for x, _ in pairs}) < _LEAST_POINTS:
        return None
    logs = np.log(np.asarray(pairs, dtype=float))
    exponent, factor = _line(logs)
    rng = np.random.default_rng(_SEED)
    slopes: list[float] = []
    while len(slopes) < _RESAMPLES // 4:
        pick = logs[rng.integers(0, len(logs), len(logs))]
        if len(set(pick[:, 0])) > 1:
            slopes.append(_line(pick)[0])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(slopes, [tail, 1 - tail])
    return Power(float(np.exp(factor)), exponent, float(low), float(high))


def _line(logs: np.ndarray) -> tuple[float, float]:
    slope, offset = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return float(slope), float(offset)
