"""Whether one condition is better than another, from runs that share their seeds or do not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.statistics.intervals import LEVEL, ConfidenceInterval, mean_interval, t_interval, t_limit

ALPHA = 0.05
POWER = 0.8
FLIPS = 2**16  # sign patterns that are enumerated; above 16 pairs this many are drawn
MOST_SEEDS = 1000  # beyond which no number of seeds is named
ROUNDING = 1e-12  # what differs by no more, relatively, differs by the rounding of floats


@dataclass(frozen=True)
class Comparison:
    """The difference of a condition from a baseline.

    paired: whether runs were compared that share their seed.  count: number of pairs, or of the smaller group's runs.
    difference: mean difference, condition minus baseline.  effect_size: the difference in standard deviations, of the
    paired differences or pooled, with Hedges' correction (1981); None where nothing varies.  superiority: probability
    that a run of the condition has the better score, ties counted half, over all pairs of runs.  p: of the exact
    sign-flip test, or of Welch's test where nothing is paired.  p_t: of the paired t-test, or None.  p_holm: p adjusted
    for all comparisons with the baseline (Holm 1979); equal to p until `adjust` is called.
    """

    paired: bool
    count: int
    difference: float
    interval: ConfidenceInterval | None
    effect_size: float | None
    superiority: float
    p: float | None
    p_t: float | None = None
    p_holm: float | None = None

    @property
    def is_significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < ALPHA


def compare_paired(
    values: Sequence[float], baseline: Sequence[float], mode: str, level: float = LEVEL, factor: float = 1.0
) -> Comparison:
    """Compare scores by pairs: values[i] and baseline[i] share their seed.

    mode: `max` or `min`, the better end of the score.  factor: as `t_interval` takes it; above 1 the p-value is that of
    the corrected t-test, since the sign-flip test knows only independent pairs.
    """
    differences = np.array(paired_differences(values, baseline))
    count = len(differences)
    mean = without_rounding(float(np.mean(differences)), 0.0, rounding_error(values, baseline))
    shared = {"effect_size": paired_effect(differences, mean), "superiority": superiority(values, baseline, mode)}
    if count < 2:
        return Comparison(True, count, mean, None, p=None, **shared)
    p_t = t_test(differences, factor)
    if factor != 1:
        interval = t_interval(list(differences), level, factor)
        return Comparison(True, count, mean, interval, p=p_t, p_t=p_t, p_holm=p_t, **shared)
    p = sign_flip_test(differences)
    return Comparison(True, count, mean, mean_interval(list(differences), level), p=p, p_t=p_t, p_holm=p, **shared)


def compare_groups(values: Sequence[float], baseline: Sequence[float], mode: str, level: float = LEVEL) -> Comparison:
    """Compare scores that share no seeds, by Welch's test (1947)."""
    difference = without_rounding(float(np.mean(values) - np.mean(baseline)), 0.0, rounding_error(values, baseline))
    count = min(len(values), len(baseline))
    better = superiority(values, baseline, mode)
    if count < 2 or (np.ptp(values) == 0 and np.ptp(baseline) == 0):
        return Comparison(False, count, difference, None, None, better, None)
    from scipy import stats

    result = stats.ttest_ind(values, baseline, equal_var=False)
    low, high = map(float, result.confidence_interval(level))
    pooled = math.sqrt((np.var(values, ddof=1) + np.var(baseline, ddof=1)) / 2)
    effect = hedges_correction(len(values) + len(baseline) - 2) * difference / pooled
    p = float(result.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return Comparison(
        False, count, difference, ConfidenceInterval(low, high, level, "Welch's t"), effect, better, p, p_holm=p
    )


def paired_differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """First minus second at each place at which neither is NaN; the longer one's further places are left out.

    Differences that only the rounding of floats keeps from zero, or from the first one, are not kept from it: where
    every seed has one more of 359 images right, nothing varies.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if not math.isnan(a) and not math.isnan(b)]
    differences = [a - b for a, b in pairs]
    error = rounding_error(*zip(*pairs, strict=True))
    for known in (0.0, *differences[:1]):
        differences = [without_rounding(difference, known, error) for difference in differences]
    return differences


def without_rounding(difference: float, known: float, error: float) -> float:
    """The known value, where the difference is that but for an error of rounding."""
    return known if abs(difference - known) <= error else difference


def rounding_error(*scores: Sequence[float]) -> float:
    """The largest difference of such scores that may be nothing but rounding."""
    return ROUNDING * max((abs(value) for values in scores for value in values), default=0.0)


def paired_effect(differences: np.ndarray, mean: float) -> float | None:
    """The mean difference in standard deviations of the differences."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    return hedges_correction(len(differences) - 1) * mean / float(np.std(differences, ddof=1))


def hedges_correction(degrees: int) -> float:
    return 1 - 3 / (4 * degrees - 1)


def superiority(values: Sequence[float], baseline: Sequence[float], mode: str) -> float:
    """The probability that a run of `values` beats one of `baseline`, ties counted half (Mann & Whitney 1947)."""
    signs = np.sign(np.subtract.outer(np.asarray(values, float), np.asarray(baseline, float)))
    return float((1 + (signs if mode == "max" else -signs).mean()) / 2)


def t_test(differences: np.ndarray, factor: float = 1.0) -> float | None:
    """The two-sided p of the paired t-test; None where the differences do not vary."""
    if np.ptp(differences) == 0:
        return None
    from scipy import special

    count = len(differences)
    error = float(np.std(differences, ddof=1)) * math.sqrt(factor / count)
    return float(2 * special.stdtr(count - 1, -abs(float(np.mean(differences))) / error))


def sign_flip_test(differences: np.ndarray) -> float:
    """The two-sided p of the sign-flip test (Fisher 1935): the share of sign patterns whose mean is at least as far
    from zero. Exact up to 16 pairs; above, by 65,536 drawn patterns.

    It assumes only that each pair's two scores could as well have been exchanged.
    """
    from scipy import stats

    if not np.any(differences):
        return 1.0
    result = stats.permutation_test(
        (np.asarray(differences, float),),
        np.mean,
        permutation_type="samples",
        n_resamples=FLIPS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def adjust(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The comparisons with p adjusted for their number, by Holm's method (1979)."""
    ps = [one.p for one in comparisons if one and one.p is not None]
    adjusted = iter(holm(ps))
    return [replace(one, p_holm=next(adjusted)) if one and one.p is not None else one for one in comparisons]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false finding stays below the level (Holm 1979)."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def fewest_seeds(comparisons: int = 1, alpha: float = ALPHA) -> int:
    """The number of paired seeds from which the sign-flip test can reach p < alpha, for the smallest of `comparisons`
    p-values after Holm's adjustment: 2 / 2^n is the smallest p."""
    return math.floor(math.log2(2 * comparisons / alpha)) + 1


def seeds_to_show(effect_size: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """The number of paired seeds with which a difference of this many standard deviations of the differences is found
    with this probability, by the t-test (noncentral t); None where it is above 1000."""
    from scipy import special

    def found(count: int) -> float:
        limit = t_limit(alpha / 2, count - 1)
        return 1 - float(special.nctdtr(count - 1, abs(effect_size) * math.sqrt(count), limit))

    if not math.isfinite(effect_size) or found(MOST_SEEDS) < power:
        return None
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= power else (middle + 1, high)
    return low
