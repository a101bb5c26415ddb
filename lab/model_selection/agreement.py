"""Whether scores put models in the same order."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_ranks(columns: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the columns of each model's rank, 1 for the highest score; equal scores share the mean of theirs.

    columns: one score each, of the same models in the same order. No one score is best on all tasks (Agostinelli et
    al. 2022, arXiv:2204.01403), and their units do not compare, but ranks do.
    """
    from scipy.stats import rankdata

    return [float(rank) for rank in np.mean([rankdata(np.negative(column)) for column in columns], axis=0)]


def weighted_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau with more weight on the best ones, from -1 to 1; nan where either is all the same.

    Source: Vigna 2015, arXiv:1404.3325, with its hyperbolic weights, as LogME's evaluation has it (arXiv:2102.11005,
    sec. 5).
    """
    from scipy.stats import weightedtau

    found: Any = weightedtau(scores, truth)
    return float(found.statistic)
