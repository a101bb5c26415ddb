"""Scores of predicted numbers."""

import numpy as np


def score_regression(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """rmse and mae in the targets' unit, and mse in its square; r2, the share of their variance that is explained; the
    correlations pearson and spearman. Of several targets, the means over them.

    predictions, targets: (N,) or (N, K), N > 0. A correlation with a constant, and the r2 of constant targets, are 0.
    """
    pairs = zip(predictions.reshape(len(predictions), -1).T, targets.reshape(len(targets), -1).T, strict=True)
    rows = [score_target(np.asarray(p, np.float64), np.asarray(t, np.float64)) for p, t in pairs]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def score_target(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    from scipy.stats import rankdata

    errors = predictions - targets
    variance = float(np.mean((targets - targets.mean()) ** 2))
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "mse": float(np.mean(errors**2)),
        "mae": float(np.mean(np.abs(errors))),
        "r2": 1 - float(np.mean(errors**2)) / variance if variance else 0.0,
        "pearson": correlation(predictions, targets),
        "spearman": correlation(rankdata(predictions), rankdata(targets)),
    }


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt(np.sum(first**2) * np.sum(second**2)))
    return float(np.sum(first * second)) / scale if scale else 0.0
