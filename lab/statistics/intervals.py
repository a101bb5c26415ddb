"""Confidence intervals of means, and the mean's usual companions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
BOOTSTRAP_FROM = 20  # values; with fewer the bootstrap's intervals are too narrow
RESAMPLES = 4999


@dataclass(frozen=True)
class ConfidenceInterval:
    """A confidence interval.  method: how it was made, for people."""

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def is_within(self, low: float, high: float) -> bool:
        return low < self.low and self.high < high


def standard_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n - 1 in the denominator; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_interval(values: Sequence[float], level: float = LEVEL) -> ConfidenceInterval | None:
    """The confidence interval of the mean: Student's t below 20 values, the BCa bootstrap (Efron 1987) from there.
    None for fewer than two values.

    The bootstrap's level is widened as Hesterberg (2015, arXiv:1411.5279, section 5.3) proposes, without which it
    covers less than it promises at these sizes.
    """
    count = len(values)
    if count < 2:
        return None
    if count < BOOTSTRAP_FROM or len(set(values)) < 3:
        return t_interval(values, level)
    from scipy import stats

    wide = math.sqrt(count / (count - 1)) * t_limit((1 - level) / 2, count - 1)
    result = stats.bootstrap(
        (np.asarray(values, float),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=math.erf(wide / math.sqrt(2)),
        method="BCa",
        rng=np.random.default_rng(0),
    )
    low, high = map(float, result.confidence_interval)
    return ConfidenceInterval(low, high, level, "BCa bootstrap")


def t_limit(tail: float, degrees: float) -> float:
    """The value above which Student's t with these degrees of freedom lies with probability `tail`."""
    from scipy import special  # imported in a quarter of the time of scipy.stats

    return float(special.stdtrit(degrees, 1 - tail))


def t_interval(values: Sequence[float], level: float = LEVEL, factor: float = 1.0) -> ConfidenceInterval:
    """Student's t interval of the mean of two values or more.  factor: by which the squared standard error grows, where
    the values are not independent (`resampling_factor`)."""
    count, mean = len(values), float(np.mean(values))
    half = t_limit((1 - level) / 2, count - 1) * float(np.std(values, ddof=1)) * math.sqrt(factor / count)
    return ConfidenceInterval(mean - half, mean + half, level, "t" if factor == 1 else "corrected resampled t")


def resampling_factor(count: int, test_share: float) -> float:
    """The factor of the squared standard error for scores of overlapping training sets, such as folds:
    1 + n * n_test / n_train (Nadeau & Bengio 2003, equation 7).

    test_share: share of the examples that each score is measured on, 1 / k for k folds.
    """
    return 1 + count * test_share / (1 - test_share)


def one_sided_bound(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The lower and the upper bound of the mean, each alone at this level, by Student's t."""
    interval = t_interval(values, 2 * level - 1)
    return interval.low, interval.high
