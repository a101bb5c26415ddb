"""Accuracy of nearest neighbours.

Source: as a measure of features Wu et al. 2018, arXiv:1805.01978, sec. 3.4; for choosing where to start from, on the
sample itself with each example left out, Puigcerver et al. 2021, arXiv:2009.13239.
"""

import numpy as np

from lab.model_selection.features import check_features


def knn(features: np.ndarray, labels: np.ndarray, k: int = 5, temperature: float = 0.07) -> float:
    """The share of examples that the `k` others nearest to them name right; higher is better.

    features: (N, D).  labels: (N,) whole numbers.
    A neighbour at cosine c votes with exp(c / temperature), as in Wu et al., whose k of 200 is for ImageNet, where a
    sample here has few of each class. Features of zeros are at cosine 0 of all.
    """
    check_features(features, labels)
    classes, y = np.unique(labels, return_inverse=True)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    k = min(k, len(y) - 1)
    right = 0
    for start in range(0, len(y), 1024):  # the cosines of all pairs at once would not fit for large samples
        cosines = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest = np.argpartition(cosines, -k)[:, -k:]
        votes = np.zeros((len(cosines), len(classes)))
        np.add.at(votes, (rows[:, None], y[nearest]), np.exp(np.take_along_axis(cosines, nearest, 1) / temperature))
        right += int((votes.argmax(1) == y[start + rows]).sum())
    return right / len(y)
