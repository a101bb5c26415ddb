"""The scores of classification against scikit-learn's, in their edge cases too."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torch import Tensor

from lab.metrics.classification import ClassificationCounts, ranks_of_labels
from lab.tasks.classification import Classification


def score(logits: Tensor, labels: Tensor, batch_size: int = 7) -> dict[str, float]:
    """The scores of fixed logits: the inputs are the logits."""
    batches = list(zip(logits.split(batch_size), labels.split(batch_size), strict=True)) if len(labels) else []
    return dict(Classification(logits.shape[1]).score(lambda x: x, batches))


def draw(num_classes: int, num_examples: int, kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes * 1000 + num_examples)
    logits = torch.randn(num_examples, num_classes, generator=generator)
    labels = torch.randint(num_classes, (num_examples,), generator=generator)
    if kind == "ties":
        logits = logits.mul(1.5).round()
    elif kind == "constant":
        logits = torch.zeros_like(logits)
    elif kind == "absent classes":
        labels = labels // 2
    return logits, labels


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """By its definition, over 15 bins (Guo et al. 2017, equation 3)."""
    confidence = logits.softmax(1).max(1).values.double()
    is_hit = (logits.argmax(1) == labels).double()
    error = 0.0
    for place in range(15):
        inside = (confidence > place / 15) & (confidence <= (place + 1) / 15)
        if inside.any():
            error += float(inside.double().mean() * (is_hit[inside].mean() - confidence[inside].mean()).abs())
    return error


def scikit_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """scikit-learn's numbers. Of equal scores its top k takes the last class, torch.argmax the first: for it the
    classes are reversed."""
    num_classes = logits.shape[1]
    probabilities = logits.double().softmax(1).numpy()
    classes = np.arange(num_classes)
    reversed_logits, reversed_labels = logits.flip(1).numpy(), num_classes - 1 - labels.numpy()
    predictions = logits.numpy().argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that only the predictions have
        scores = {
            "accuracy": accuracy_score(labels, predictions),
            "balanced_accuracy": balanced_accuracy_score(labels, predictions),
            "cross_entropy": log_loss(labels, probabilities, labels=classes) if num_classes > 1 else 0.0,
            "macro_f1": f1_score(labels, predictions, average="macro", zero_division=0),
            "ece": calibration_error(logits, labels),
        }
        if num_classes > 5:
            scores["top5"] = top_k_accuracy_score(reversed_labels, reversed_logits, k=5, labels=classes)
    recalls = recall_score(labels, predictions, labels=classes, average=None, zero_division=0)
    return scores | {f"accuracy/{name}": recalls[name] for name in sorted(set(labels.tolist()))}


@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "absent classes"])
@pytest.mark.parametrize(
    ("num_classes", "num_examples"), [(10, 100), (6, 50), (5, 30), (3, 20), (2, 1), (12, 1), (1, 4)]
)
def test_scores_are_scikit_learns(num_classes, num_examples, kind):
    logits, labels = draw(num_classes, num_examples, kind)
    scores = score(logits, labels)
    assert scores == pytest.approx(scikit_scores(logits, labels), rel=1e-6, abs=1e-7)
    assert scores["accuracy"] <= scores.get("top5", 1.0)


def test_a_model_that_tells_no_classes_apart_has_five_of_ten_in_its_top5():
    labels = torch.arange(100) % 10
    scores = score(torch.zeros(100, 10), labels)
    hits = (torch.zeros(100, 10).topk(5).indices == labels[:, None]).any(1).float().mean().item()
    assert scores["top5"] == pytest.approx(hits) == pytest.approx(0.5)
    assert scores["accuracy"] == scores["balanced_accuracy"] == pytest.approx(0.1)
    assert scores["cross_entropy"] == pytest.approx(math.log(10))


def test_top5_agrees_with_topk_where_there_is_no_tie():
    logits, labels = draw(10, 200, "plain")
    hits = (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    assert score(logits, labels)["top5"] == pytest.approx(hits)


def test_logits_that_are_no_numbers_are_no_hits_and_end_the_run_by_their_loss():
    logits, labels = draw(10, 20, "plain")
    logits[:10] = math.nan
    scores = score(logits, labels)
    assert math.isnan(scores["cross_entropy"])
    hits = (logits[10:].topk(5).indices == labels[10:, None]).any(1).sum().item()
    assert scores["top5"] == hits / 20
    assert ranks_of_labels(logits[:10], labels[:10]).tolist() == [10] * 10


def test_minus_infinity_rules_a_class_out():
    logits, labels = torch.zeros(1, 7), torch.tensor([6])
    logits[0, :3] = -math.inf
    scores = score(logits, labels)
    assert (scores["top5"], scores["accuracy"]) == (1.0, 0.0)
    assert scores["cross_entropy"] == pytest.approx(math.log(4))


def test_the_size_of_the_batches_does_not_matter_and_no_batch_gives_no_score():
    logits, labels = draw(10, 100, "ties")
    whole = score(logits, labels, 100)
    for batch_size in (1, 33):
        assert score(logits, labels, batch_size) == pytest.approx(whole, rel=1e-6)
    assert score(torch.zeros(0, 10), torch.zeros(0, dtype=torch.long)) == {}
    assert ClassificationCounts(3, torch.device("cpu")).scores(["a", "b", "c"]) == {}


def test_classes_of_one_name_would_share_a_score_and_are_refused():
    with pytest.raises(ValueError, match="several classes are named cat; give each a name of its own"):
        Classification(3, classes=["cat", "dog", "cat"])
    with pytest.raises(ValueError, match="num_classes 0 is not a positive number"):
        Classification(0)


def test_a_model_that_is_sure_and_right_is_calibrated():
    counts = ClassificationCounts(3, torch.device("cpu"))
    counts.add(100 * torch.eye(3), torch.arange(3))
    assert counts.scores("abc")["ece"] == pytest.approx(0, abs=1e-6)
