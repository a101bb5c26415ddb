"""LogME: the evidence of the labels under a Bayesian linear model on the features, with its weights integrated out.

Source: You et al. 2021, arXiv:2102.11005; the fixed point on singular values is algorithm 3 of the longer version,
You et al. 2022, arXiv:2110.10545.
"""

import numpy as np

from lab.model_selection.features import check_features

MAX_ITERATIONS = 1000  # without noise, t decreases towards zero for ever, but the evidence hardly changes
# minimum of a class's squared residual, as in the authors' code; keeps the evidence finite where features fit a class
MIN_RESIDUAL = 1e-5


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """The maximum log evidence, in nats per example, averaged over the classes in the sample; higher is better.

    features: (N, D).  labels: integers (N,).
    For each class's y in {0, 1}^N, with weights w ~ N(0, 1/alpha) and y ~ N(F w, 1/beta), log p(y | F, alpha, beta) is
    maximised over alpha and beta. With the singular values s of F and t = alpha / beta, it depends on t alone:
        N/2 log(N / q) - 1/2 sum log(1 + s^2 / t) - N/2 (1 + log 2 pi),   q = y' (1 + F F' / t)^-1 y.
    The authors' code counts D values of log alpha but min(N, D) of log(alpha + beta s^2), which is wrong for D > N;
    here the other D - N cancel, as in the equation. Classes that the sample lacks are left out.
    """
    check_features(features, labels)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    real = s > s.max() * max(features.shape) * np.finfo(features.dtype).eps
    y = (labels[:, None] == np.unique(labels)).astype(float)  # (N, K)
    z2 = (u[:, real].T @ y) ** 2  # (rank, K)
    # the part of y outside the span of F; 0 if F has rank N, where rounding errors would count as noise
    rest = np.maximum(y.sum(0) - z2.sum(0), MIN_RESIDUAL) * (real.sum() < len(labels))
    return float(maximize_evidence(s[real, None] ** 2, z2, rest, len(labels)).mean()) / len(labels)


def maximize_evidence(s2: np.ndarray, z2: np.ndarray, rest: np.ndarray, n: int) -> np.ndarray:
    """The log evidence (K,) at the fixed point of t.

    s2: squared singular values, (rank, 1).  z2: squares of y in the singular vectors, (rank, K).  rest: squared norm of
    y outside the singular vectors, (K,).  n: number of examples.
    """
    t = np.ones_like(rest)
    evidence = before = np.full_like(rest, -np.inf)
    for _ in range(MAX_ITERATIONS):
        noise = t / (t + s2)  # (rank, K), the share of noise in each direction
        q = (z2 * noise).sum(0) + rest
        evidence = n / 2 * np.log(n / q) + np.log(noise).sum(0) / 2 - n / 2 * (1 + np.log(2 * np.pi))
        if np.abs(evidence - before).max() <= 1e-8 * n:
            break
        before = evidence
        gamma, residual = (1 - noise).sum(0), (z2 * noise**2).sum(0) + rest
        weights = (z2 * (1 - noise) ** 2 / s2).sum(0)  # |m|^2, m being the posterior mean
        # alpha = gamma / |m|^2 and beta = (n - gamma) / residual
        t = gamma * residual / np.maximum((n - len(s2) + noise.sum(0)) * weights, 1e-100)
        t = np.clip(t, 1e-100, 1e100)
    return evidence
