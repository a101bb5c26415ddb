"""Classification scores from counts that stay on the device until the end of the split."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CONFIDENCE_BINS = 15  # of the expected calibration error


class ClassificationCounts:
    """Running counts over batches of logits (B, C) and labels (B,).

    confusion: confusion matrix, flattened to (C * C,); rows are labels, columns predictions.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        # float64, as a sum of 50k losses in float32 is wrong in the 4th digit; MPS has no float64
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.cross_entropy = torch.zeros((), dtype=exact, device=device)
        self.in_top5 = torch.zeros((), dtype=torch.int64, device=device)
        self.bins = torch.zeros(2, CONFIDENCE_BINS, dtype=exact, device=device)  # sums of hits and of confidences

    def add(self, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        self.cross_entropy += F.cross_entropy(logits, labels, reduction="sum")
        predicted = logits.argmax(1)
        confidence = logits.softmax(1).gather(1, predicted[:, None])[:, 0].nan_to_num(0)
        places = (confidence * CONFIDENCE_BINS).ceil().long().clamp(1, CONFIDENCE_BINS) - 1
        gained = torch.stack([predicted == labels, confidence]).to(self.bins)
        self.bins.index_add_(1, places, gained)
        cells = labels * self.num_classes + predicted
        self.confusion += torch.bincount(cells, minlength=len(self.confusion))
        self.in_top5 += (ranks_of_labels(logits, labels) < 5).sum()

    def confusion_matrix(self) -> list[list[int]]:
        """Counts by label (row) and prediction (column)."""
        return self.confusion.view(self.num_classes, self.num_classes).tolist()

    def scores(self, classes: Sequence[str]) -> dict[str, float]:
        """accuracy, macro_f1, balanced_accuracy, top5 (with more than 5 classes), cross_entropy in nats, ece,
        accuracy/<class>.
        Empty without examples.

        ece is the expected calibration error over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599, equation
        3): how far the probability of the predicted class is from its accuracy.

        Of classes with equal logits, the first is predicted, as by torch.argmax, and top5 ranks them in their order, so
        a hit in accuracy is always one in top5. A class without examples has no accuracy. balanced_accuracy is the mean
        of the accuracies of the classes, so that large classes do not dominate (Brodersen et al. 2010,
        doi:10.1109/ICPR.2010.764, for two classes).
        """
        confusion = self.confusion.view(self.num_classes, self.num_classes).cpu()
        correct, per_class = confusion.diagonal(), confusion.sum(1)
        total = int(per_class.sum())
        if not total:
            return {}
        class_accuracies = {
            f"accuracy/{name}": hits / count
            for name, hits, count in zip(classes, correct.tolist(), per_class.tolist(), strict=True)
            if count
        }
        scores = {
            "accuracy": int(correct.sum()) / total,
            "macro_f1": macro_f1(confusion),
            "balanced_accuracy": sum(class_accuracies.values()) / len(class_accuracies),
            "cross_entropy": float(self.cross_entropy) / total,
            "ece": float((self.bins[0] - self.bins[1]).abs().sum()) / total,
        }
        if self.num_classes > 5:
            scores["top5"] = int(self.in_top5) / total
        return scores | class_accuracies


def macro_f1(confusion: Tensor) -> float:
    """The mean over the classes of 2 hits / (examples + predictions), without classes that have neither.

    confusion: (C, C), rows are labels, columns predictions.
    """
    either = confusion.sum(0) + confusion.sum(1)
    return float((2 * confusion.diagonal() / either)[either > 0].double().mean())


def ranks_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of classes that come before each label (B,): those with a higher logit or NaN, and those with an equal
    logit and a lower number. Unlike topk, this does not sort."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return (~(logits <= own) | ((logits == own) & earlier)).sum(1)
