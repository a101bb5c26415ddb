"""Verdicts on a paper's claims from the scores of our own runs, by tests of equivalence (Schuirmann 1987)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lab.statistics.comparison import ALPHA, MOST_SEEDS
from lab.statistics.intervals import ConfidenceInterval, standard_deviation, t_interval, t_limit


class ClaimVerdict(StrEnum):
    """REPRODUCED: the test shows what the claim says.  WITHIN NOISE: the scores agree with the claim, too few or too
    noisy to show it.  NOT REPRODUCED: the test excludes the claim.  NOT YET DECIDABLE: neither is shown."""

    REPRODUCED = "REPRODUCED"
    WITHIN_NOISE = "WITHIN NOISE"
    NOT_REPRODUCED = "NOT REPRODUCED"
    NOT_YET_DECIDABLE = "NOT YET DECIDABLE"


@dataclass(frozen=True)
class Judgement:
    """A verdict.  estimate: mean of the scores, or of the differences.  interval: its 95 % interval, or None.
    seeds: number of seeds that would decide it, where it is not decided and there is such a number."""

    verdict: ClaimVerdict
    estimate: float | None
    interval: ConfidenceInterval | None = None
    seeds: int | None = None


def judge_value(values: Sequence[float], target: float, tolerance: float) -> Judgement:
    """Is the mean within `tolerance` of the paper's value?

    REPRODUCED where the 90 % interval lies inside target ± tolerance, which is two one-sided tests at 5 %; NOT
    REPRODUCED where the 95 % interval lies outside of it. Else WITHIN NOISE where the mean lies inside of it.
    """
    return judge_range(values, target - tolerance, target + tolerance)


def judge_bound(values: Sequence[float], bound: float, is_upper: bool, alpha: float = ALPHA) -> Judgement:
    """Is the mean at most `bound` (is_upper), or at least?

    REPRODUCED where a one-sided t-test at `alpha` shows it; NOT REPRODUCED where one at 2.5 % shows the contrary.
    """
    low, high = (-math.inf, bound) if is_upper else (bound, math.inf)
    return judge_range(values, low, high, alpha)


def judge_range(values: Sequence[float], low: float, high: float, alpha: float = ALPHA) -> Judgement:
    """Does the mean lie in [low, high]?  alpha: level of each one-sided test that shows it."""
    if not values:
        return Judgement(ClaimVerdict.NOT_YET_DECIDABLE, None)
    mean = float(np.mean(values))
    if len(values) < 2:
        return Judgement(ClaimVerdict.NOT_YET_DECIDABLE, mean, seeds=2)
    inner, outer = t_interval(values, 1 - 2 * alpha), t_interval(values, 1 - ALPHA)
    if low <= inner.low and inner.high <= high:
        return Judgement(ClaimVerdict.REPRODUCED, mean, outer)
    if outer.high < low or outer.low > high:
        return Judgement(ClaimVerdict.NOT_REPRODUCED, mean, outer)
    verdict = ClaimVerdict.WITHIN_NOISE if low <= mean <= high else ClaimVerdict.NOT_YET_DECIDABLE
    return Judgement(verdict, mean, outer, seeds_to_decide(values, low, high, alpha))


def seeds_to_decide(values: Sequence[float], low: float, high: float, alpha: float = ALPHA) -> int | None:
    """The number of seeds with which the verdict would be REPRODUCED or NOT REPRODUCED, if mean and spread stayed as
    they are; None where it is above 1000."""
    mean, spread = float(np.mean(values)), standard_deviation(values)
    if spread is None:
        return None
    is_inside = low <= mean <= high
    distance = min(abs(mean - end) for end in (low, high) if math.isfinite(end))
    level = alpha if is_inside else ALPHA / 2
    for count in range(len(values) + 1, MOST_SEEDS + 1):
        if t_limit(level, count - 1) * spread / math.sqrt(count) < distance:
            return count
    return None


def expected_extreme(count: int) -> float:
    """The expected maximum of `count` standard normal values, in standard deviations: what is gained by reporting the
    best of several runs (Blom 1958)."""
    from scipy import integrate, stats

    if count < 2:
        return 0.0

    def density(x: float) -> float:
        return x * count * float(stats.norm.pdf(x)) * float(stats.norm.cdf(x)) ** (count - 1)

    return float(integrate.quad(density, -8, 8)[0])
