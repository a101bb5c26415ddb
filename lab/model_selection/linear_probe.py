"""Accuracy of a linear classifier on the features.

Source: Alain & Bengio 2017, arXiv:1610.01644; Kornblith et al. 2019, arXiv:1805.08974.
"""

import warnings

import numpy as np

from lab.model_selection.features import check_features


def linear_probe(features: np.ndarray, labels: np.ndarray, folds: int = 5, c: float = 1.0) -> float:
    """The accuracy of multinomial logistic regression on the examples of each fold, fitted to the others', in the mean.

    features: (N, D), standardised by those that are fitted to.  labels: (N,) whole numbers.  folds: with classes in
    even shares, no more than the largest class has examples; in order, so that nothing is drawn.  c: the inverse of
    the strength of the L2 penalty.
    Raises ValueError where no class has two examples.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_features(features, labels)
    largest = np.unique(labels, return_counts=True)[1].max()
    if largest < 2:
        raise ValueError("no class of the sample has two examples to fit and to test with; give more with --examples=")
    # a rotation changes nothing, as the penalty is round, and in it no more features than examples are left
    rotation = [PCA(svd_solver="full")] if features.shape[1] > len(features) else []
    probe = make_pipeline(StandardScaler(), *rotation, LogisticRegression(C=c, max_iter=1000))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it is told wrong where it is the only one
        named = cross_val_predict(probe, features, labels, cv=StratifiedKFold(min(folds, int(largest))))
    return float(np.mean(named == labels))
