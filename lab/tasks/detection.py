"""Object detection: boxes with classes in images."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lab.metrics.detection import DetectionResults
from lab.metrics.scores import Evaluation, Picture
from lab.pictures import Box, draw_boxes, draw_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

Detector = Callable[..., Any]
Target = dict[str, Tensor]
DetectionBatch = tuple[Sequence[Tensor], Sequence[Target]]

SHOWN = 4  # images that are drawn


class Detection:
    """Batches are pairs of a list of images, each (3, H, W), and a list of their targets, dicts with `boxes` (N, 4) as
    left, top, right, bottom in pixels, and `labels` (N,) from 1 to the number of classes.

    The model is one of torchvision's detectors or has their interface: `model(images, targets)` gives a dict of losses
    in training, `model(images)` a dict with `boxes`, `labels` and `scores` for each image in evaluation.
    classes: names of the labels 1, 2, ...
    min_score: confidence of the boxes that are drawn and predicted; the scores take all boxes.
    Raises ValueError where faster-coco-eval is missing.
    """

    monitor = "val/map"

    def __init__(self, classes: Sequence[str], min_score: float = 0.5):
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score {min_score} is not from 0 to 1")
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise ValueError("task=detection needs faster-coco-eval: pip install 'lab[detection]'")
        self.classes, self.min_score = list(classes), min_score
        self.category_ids: Sequence[int] = range(1, len(self.classes) + 1)

    def bind(self, data: Any) -> None:
        """Take the data set's own numbers of the classes, for the file of detections."""
        self.category_ids = getattr(data, "category_ids", self.category_ids)

    def loss(self, model: Detector, batch: DetectionBatch) -> Tensor:
        """The sum of the model's losses, a scalar. Raises ValueError for a label that is no class."""
        images, targets = batch
        labels = torch.cat([target["labels"] for target in targets])
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(self.classes):
            raise ValueError(
                f"labels are from {int(labels.min())} to {int(labels.max())}; they count from 1, as 0 is the "
                f"background, to {len(self.classes)}, the number of classes"
            )
        losses = model(list(images), list(targets))
        if not isinstance(losses, Mapping):
            raise ValueError(f"in training the model gives a {type(losses).__name__}, not a dict of losses")
        return torch.stack(list(losses.values())).sum()

    def num_examples(self, batch: DetectionBatch) -> int:
        return len(batch[0])

    def slice_examples(self, batch: DetectionBatch, start: int, stop: int) -> DetectionBatch:
        return batch[0][start:stop], batch[1][start:stop]

    def score(self, model: Detector, batches: Iterable[DetectionBatch]) -> Evaluation:
        """`map`, `map50`, `map75`, recalls, both by size, and `map/<class>` (`lab.metrics.detection`), with pictures
        and a file of the detections. Empty without batches."""
        results = DetectionResults(len(self.classes))
        drawn: list[tuple[Tensor, list[Box]]] = []
        for images, targets in batches:
            outputs = model(list(images))
            for image, target, output in zip(images, targets, outputs, strict=True):
                results.add(target, output)
                if len(drawn) < SHOWN:
                    boxes = [*self.true_boxes(target), *self.found_boxes(self.objects(output))]
                    drawn.append((image.detach().cpu(), boxes))
        scores = results.scores(self.classes)
        if not scores:
            return Evaluation({})
        detections = json.dumps(results.results_file(self.category_ids)).encode()
        return Evaluation(
            scores,
            directions=dict.fromkeys(scores, "max"),
            pictures={"detections": partial(draw_sheet, drawn)},
            files={"detections.json": detections},
        )

    def predict(self, model: Detector, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Of each image: `found`, the number of objects of each class, and the `objects`, with `label`, `score`, and
        `box` as left, top, right, bottom in pixels."""
        answers = []
        for output in model(list(images)):
            objects = self.objects(output)
            counts = Counter(found["label"] for found in objects)
            found = ", ".join(f"{number} {label}" for label, number in counts.most_common()) or "nothing"
            answers.append({"found": found, "objects": objects})
        return answers

    def objects(self, output: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """The boxes of at least `min_score`, as `predict` gives them."""
        chosen = output["scores"] >= self.min_score
        parts = (output[name][chosen].float().cpu().tolist() for name in ("boxes", "labels", "scores"))
        return [
            {"label": self.classes[int(label) - 1], "score": score, "box": [round(edge, 2) for edge in box]}
            for box, label, score in zip(*parts, strict=True)
        ]

    def draw(self, images: Sequence[Tensor], answers: Sequence[Mapping[str, Any]]) -> "list[Image]":
        """The images with the boxes of their answers."""
        pairs = zip(images, answers, strict=True)
        return [draw_boxes(image, self.found_boxes(answer["objects"])) for image, answer in pairs]

    def pictures(self, batch: DetectionBatch) -> dict[str, Picture]:
        """`inputs`, the first images of the batch with their true boxes."""
        images, targets = self.slice_examples(batch, 0, SHOWN)
        pairs = zip(images, targets, strict=True)
        drawn = [(image.detach().cpu(), self.true_boxes(target)) for image, target in pairs]
        return {"inputs": partial(draw_sheet, drawn)}

    def true_boxes(self, target: Target) -> list[Box]:
        labels = [self.classes[label - 1] for label in target["labels"].tolist()]
        return [Box(edges, label) for edges, label in zip(target["boxes"].tolist(), labels, strict=True)]

    def found_boxes(self, objects: Sequence[Mapping[str, Any]]) -> list[Box]:
        """Boxes to draw, in a colour for each class."""
        return [
            Box(found["box"], f"{found['label']} {found['score']:.2f}", self.classes.index(found["label"]))
            for found in objects
        ]
