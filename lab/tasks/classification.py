"""Single-label classification: one class for each example."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lab.metrics.classification import ClassificationCounts
from lab.metrics.scores import Evaluation, Picture
from lab.pictures import are_images, draw_confusion_matrix, draw_image_grid
from lab.text import join_names

Classifier = Callable[[Any], Tensor]
LabelledBatch = tuple[Any, Tensor]


class Classification:
    """Batches are pairs of inputs, a tensor (B, ...) or a dict of such tensors, and labels, int64 (B,); labels mixed by
    mixup or cutmix are probabilities (B, num_classes).

    label_smoothing: share of each label spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567, sec. 7).
    classes: class names, for the accuracies of single classes; None for the numbers of the classes.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, classes: Sequence[str] | None = None):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes} is not a positive number of classes")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.classes = list(classes) if classes else [str(number) for number in range(num_classes)]
        if len(self.classes) != num_classes:
            raise ValueError(f"{len(self.classes)} names for {num_classes} classes")
        if repeated := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise ValueError(f"several classes are named {join_names(repeated)}; give each a name of its own")

    def loss(self, model: Classifier, batch: LabelledBatch) -> Tensor:
        """Mean cross-entropy in nats, a scalar."""
        inputs, labels = batch
        if labels.dim() == 1 and labels.is_floating_point():
            raise ValueError("the targets are numbers, not classes; give task=regression, or data.classes")
        return F.cross_entropy(model(inputs), labels, label_smoothing=self.label_smoothing)

    def score(self, model: Classifier, batches: Iterable[LabelledBatch]) -> Evaluation:
        """accuracy, balanced_accuracy, top5 (with more than 5 classes), cross_entropy (without label smoothing) and
        accuracy/<class>, with a picture of the confusion matrix. Empty without batches."""
        counts = None
        for inputs, labels in batches:
            if counts is None:
                counts = ClassificationCounts(self.num_classes, labels.device)
            counts.add(self.logits(model, inputs, len(labels)), labels)
        scores = counts.scores(self.classes) if counts else {}
        if not counts or not scores:
            return Evaluation({})
        return Evaluation(
            scores, pictures={"confusion": partial(draw_confusion_matrix, counts.confusion_matrix(), self.classes)}
        )

    def predict(self, model: Classifier, inputs: Any) -> list[dict[str, Any]]:
        """The `label` of each example, its `probability`, and the `probabilities` of all classes."""
        rows = model(inputs).float().softmax(1).cpu()
        return [
            {
                "label": self.classes[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(self.classes, row.tolist(), strict=True)),
            }
            for row in rows
        ]

    def pictures(self, batch: LabelledBatch) -> dict[str, Picture]:
        """`inputs`, a grid of the batch's images as the model sees them; empty where the inputs are no images."""
        inputs, _ = batch
        return {"inputs": partial(draw_image_grid, inputs)} if are_images(inputs) else {}

    def logits(self, model: Classifier, inputs: Any, num_examples: int) -> Tensor:
        """The model's outputs, (B, num_classes). Raises ValueError for any other shape."""
        logits = model(inputs)
        if logits.shape != (num_examples, self.num_classes):
            raise ValueError(
                f"the model gives {tuple(logits.shape)} for {num_examples} examples of {self.num_classes} classes; "
                f"expected ({num_examples}, {self.num_classes})"
            )
        return logits
