"""Cross-validated accuracy of a linear classifier on the features.

Source: Alain & Bengio 2017, arXiv:1610.01644; Kornblith et al. 2019, arXiv:1805.08974.
"""

import warnings

import numpy as np

from lab.model_selection.features import check_features


def linear_probe_accuracy(features: np.ndarray, labels: np.ndarray, folds: int = 5, c: float = 1.0) -> float:
    """Mean cross-validated accuracy of multinomial logistic regression; higher is better.

    features: (N, D), standardised by the statistics of the training folds.  labels: integers (N,).
    folds: number of folds, reduced to the size of the largest class. The classes are spread evenly over them, in order,
        so that nothing is random.
    c: inverse strength of the L2 penalty.
    Raises ValueError if no class has two examples.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_features(features, labels)
    largest = np.unique(labels, return_counts=True)[1].max()
    if largest < 2:
        raise ValueError(
            "no class of the sample has two examples, one to fit and one to test; give more with --examples="
        )
    # PCA reduces the features to at most N; as a rotation it does not change the result, since the penalty is isotropic
    rotation = [PCA(svd_solver="full")] if features.shape[1] > len(features) else []
    probe = make_pipeline(StandardScaler(), *rotation, LogisticRegression(C=c, max_iter=1000))
    with warnings.catch_warnings():
        # the only example of a class is always predicted wrong, as it should be
        warnings.filterwarnings("ignore", "The least populated class")
        predicted = cross_val_predict(probe, features, labels, cv=StratifiedKFold(min(folds, int(largest))))
    return float(np.mean(predicted == labels))
