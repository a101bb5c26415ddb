"""LEEP: how well the classes of the source head, without any training, predict the labels.

Source: Nguyen et al. 2020, arXiv:2002.12462, eq. 1 and 2.
"""

import numpy as np

from lab.model_selection.features import check_features


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-likelihood of the labels, in nats, at most 0; higher is better.

    P(y, z) = 1/N sum over y_i = y of theta(x_i)_z, and LEEP = 1/N sum_i log sum_z P(y_i | z) theta(x_i)_z.
    probabilities: theta, (N, Z), of the source classes.  labels: integers (N,).
    A source class that has probability 0 for every example adds nothing.
    """
    check_features(probabilities, labels)
    classes, y = np.unique(labels, return_inverse=True)
    joint = (y == np.arange(len(classes))[:, None]) @ probabilities / len(labels)  # (K, Z)
    marginal = joint.sum(0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    return float(np.log((conditional[y] * probabilities).sum(1)).mean())


def source_probabilities(features: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The softmax (N, Z) of a source head on features (N, D).

    weight: (Z, D), or (Z, D, 1, 1) for a 1x1 convolution.  bias: (Z,), or None.
    Raises ValueError for a head with another number of features.
    """
    weight = weight.reshape(len(weight), -1)
    if weight.shape[1] != features.shape[1]:
        raise ValueError(f"the source head reads {weight.shape[1]} features, the model has {features.shape[1]}")
    logits = features @ weight.T + (0.0 if bias is None else bias)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
