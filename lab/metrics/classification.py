"""What a split's scores are made of: counts kept on the device, fetched once at the end."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.metrics.scores import Scores


class ClassificationCounts:
    """Running counts over batches of logits (B, C) and labels (B,).

    confusion: (C, C), row the label, column the prediction.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        # float64: sums of 50k float32 losses drift in the 4th digit; MPS has none
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.cross_entropy = torch.zeros((), dtype=exact, device=device)
        self.in_top5 = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        self.cross_entropy += F.cross_entropy(logits, labels, reduction="sum")
        pairs = labels * self.num_classes + logits.argmax(1)
        self.confusion += torch.bincount(pairs, minlength=len(self.confusion))
        # how many classes score above the label's; unlike topk, this does not sort
        above = (logits > logits.gather(1, labels[:, None])).sum(1)
        self.in_top5 += (above < 5).sum()

    def scores(self, classes: Sequence[str]) -> Scores:
        """accuracy, balanced_accuracy, top5 (with more than 5 classes), cross_entropy in nats, accuracy/<class>, and
        the confusion table.

        A class that has no example has no accuracy. balanced_accuracy: the mean of those that there are, so that no
        class rules by its size (Brodersen et al. 2010, doi:10.1109/ICPR.2010.764, for two classes).
        """
        confusion = self.confusion.view(self.num_classes, self.num_classes).cpu()
        right, of = confusion.diagonal(), confusion.sum(1)
        total = int(of.sum())
        if not total:
            return Scores({})
        of_class = {
            f"accuracy/{name}": int(hits) / int(num) for name, hits, num in zip(classes, right, of, strict=True) if num
        }
        scores = {
            "accuracy": int(right.sum()) / total,
            "balanced_accuracy": sum(of_class.values()) / len(of_class),
            "cross_entropy": float(self.cross_entropy) / total,
        }
        if self.num_classes > 5:
            scores["top5"] = int(self.in_top5) / total
        return Scores(scores | of_class, {"confusion": confusion.tolist()})
