"""Agreement of scores on the order of models."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_ranks(columns: Sequence[Sequence[float]]) -> list[float]:
    """Each model's mean rank over the columns. The highest score has rank 1; equal scores share their mean rank.

    columns: values of one score each, for the same models in the same order.
    No single score is best on all tasks (Agostinelli et al. 2022, arXiv:2204.01403). Their units cannot be compared,
    but their ranks can.
    """
    from scipy.stats import rankdata

    return [float(rank) for rank in np.mean([rankdata(np.negative(column)) for column in columns], axis=0)]


def weighted_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau with more weight on the best models, from -1 to 1; nan if all scores or all truths are equal.

    Source: Vigna 2015, arXiv:1404.3325, with its hyperbolic weights, as in LogME's evaluation (arXiv:2102.11005,
    sec. 5).
    """
    from scipy.stats import weightedtau

    result: Any = weightedtau(scores, truth)
    return float(result.statistic)
