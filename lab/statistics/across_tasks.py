"""Scores of several tasks at once, as rliable defines them (Agarwal et al. 2021, arXiv:2108.13264), and the best of k.

A matrix of scores has a row for each run and a column for each task.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lab.statistics.comparison import superiority
from lab.statistics.intervals import LEVEL, ConfidenceInterval

RESAMPLES_OF_RUNS = 2000
Scores = np.ndarray  # runs x tasks


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all runs of all tasks."""
    from scipy import stats

    return float(stats.trim_mean(np.ravel(scores), 0.25))


def performance_profile(scores: Scores, thresholds: Sequence[float]) -> list[float]:
    """The share of runs, of all tasks, with a score above each threshold."""
    return [float(np.mean(scores > threshold)) for threshold in thresholds]


def probability_of_improvement(scores: Scores, baseline: Scores, mode: str = "max") -> float:
    """The mean over the tasks of the probability that a run beats one of the baseline, ties counted half."""
    return float(np.mean([superiority(a, b, mode) for a, b in zip(scores.T, baseline.T, strict=True)]))


def stratified_interval(
    statistic: Callable[..., float], *matrices: Scores, level: float = LEVEL, resamples: int = RESAMPLES_OF_RUNS
) -> ConfidenceInterval:
    """The percentile interval of a statistic of score matrices, by drawing the runs of each task anew."""
    rng = np.random.default_rng(0)

    def draw(scores: Scores) -> Scores:
        return np.take_along_axis(scores, rng.integers(0, len(scores), scores.shape), axis=0)

    drawn = [statistic(*map(draw, matrices)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(float(low), float(high), level, "stratified bootstrap")


def expected_best(scores: Sequence[float], mode: str) -> list[float]:
    """The expected best score of k of the runs, for k = 1 to n (Dodge et al. 2019, arXiv:1909.03004, equation 3)."""
    ordered = np.sort(scores) if mode == "max" else np.sort(scores)[::-1]
    shares = np.arange(len(ordered) + 1) / len(ordered)
    return [float(np.sum(ordered * np.diff(shares**k))) for k in range(1, len(ordered) + 1)]
