"""Accuracy of nearest neighbours.

Source: as a measure of features, Wu et al. 2018, arXiv:1805.01978, sec. 3.4; for choosing a model to start from, on
the sample itself with each example left out, Puigcerver et al. 2021, arXiv:2009.13239.
"""

import numpy as np

from lab.model_selection.features import check_features


def knn_accuracy(features: np.ndarray, labels: np.ndarray, k: int = 5, temperature: float = 0.07) -> float:
    """The share of examples whose label wins the vote of their `k` nearest neighbours; higher is better.

    features: (N, D).  labels: integers (N,).
    k: number of neighbours. Wu et al. use 200 for ImageNet; a sample here has few examples of each class.
    temperature: scale of the votes: a neighbour at cosine c votes with exp(c / temperature), as in Wu et al.
    Features that are all zero have cosine 0 with all others.
    """
    check_features(features, labels)
    classes, y = np.unique(labels, return_inverse=True)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    k = min(k, len(y) - 1)
    num_right = 0
    for start in range(0, len(y), 1024):  # in chunks, as the cosines of all pairs may not fit into memory
        cosines = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest = np.argpartition(cosines, -k)[:, -k:]
        votes = np.zeros((len(cosines), len(classes)))
        np.add.at(votes, (rows[:, None], y[nearest]), np.exp(np.take_along_axis(cosines, nearest, 1) / temperature))
        num_right += int((votes.argmax(1) == y[start + rows]).sum())
    return num_right / len(y)
