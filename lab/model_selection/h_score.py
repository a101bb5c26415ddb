"""H-score: the variance of the features between classes, relative to their total variance.

Source: Bao et al. 2019, An Information-Theoretic Approach to Transferability in Task Transfer Learning,
arXiv:2212.10082; the shrinkage that keeps it stable if features outnumber examples is Ibrahim et al. 2021,
arXiv:2110.06893.
"""

import numpy as np

from lab.model_selection.features import check_features


def h_score(features: np.ndarray, labels: np.ndarray, shrinkage: float | None = None) -> float:
    """tr(C_a^-1 (1 - a) C_z), from 0 to the number of classes minus one; higher is better.

    C is the covariance of the features, C_z that of the means of their classes, and C_a = (1 - a) C + a tr(C)/D 1.
    features: (N, D).  labels: integers (N,).
    shrinkage: a; None for the estimate of Ledoit & Wolf (2004), as in Ibrahim et al.; 0 for Bao's original score, with
        a pseudo-inverse, which grows with D whatever the features are.
    Constant features score 0.
    """
    check_features(features, labels)
    n, d = features.shape
    u, s, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    scale = np.abs(features).max() * np.sqrt(n * d)  # bound on rounding errors, so that constant features have rank 0
    real = s > max(scale, s.max()) * max(n, d) * np.finfo(features.dtype).eps
    u, s = u[:, real], s[real]
    a = ledoit_wolf(u, s, d) if shrinkage is None else shrinkage
    spread = (1 - a) * s**2 / n + a * (s**2).sum() / n / d
    y = labels[:, None] == np.unique(labels)
    means = (u.T @ y) * s[:, None] / y.sum(0)  # (rank, K): each class's mean in the singular vectors
    return float((1 - a) * (y.mean(0) * means**2 / spread[:, None]).sum())


def ledoit_wolf(u: np.ndarray, s: np.ndarray, d: int) -> float:
    """The shrinkage for the covariance of centred examples u * s in d dimensions, without computing the d x d matrix.

    Source: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, eq. 14.
    """
    n = len(u)
    squared_norm = (s**4).sum() / n**2  # |C|^2
    distance = squared_norm - (s**2).sum() ** 2 / n**2 / d  # |C - tr(C)/D 1|^2
    error = (((u * s) ** 2).sum(1) ** 2).sum() / n**2 - squared_norm / n
    return min(error / distance, 1.0) if distance > 0 else 0.0
