"""Average precision and recall of detected boxes, as COCO defines them (Lin et al. 2014, arXiv:1405.0312), by
faster-coco-eval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from torch import Tensor

SUMMARY = {  # places in the evaluator's list of scores
    "map": 0,
    "map50": 1,
    "map75": 2,
    "map_small": 3,
    "map_medium": 4,
    "map_large": 5,
    "ar1": 6,
    "ar10": 7,
    "ar100": 8,
    "ar_small": 9,
    "ar_medium": 10,
    "ar_large": 11,
}
MAIN = ("map", "map50", "map75")  # 0 where there is no box to find


class DetectionResults:
    """The boxes of images, true ones and detected ones, from which the scores are computed.

    Each image added has a number of its own, so images without true boxes count as well: what is detected in them is a
    false detection.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.images: list[int] = []  # the data set's numbers of the images
        self.truths: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []

    def add(self, target: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> None:
        """The boxes of one image.

        target: `boxes` (N, 4) as left, top, right, bottom, `labels` (N,) from 1; if there are such, `area` (N,),
            `iscrowd` (N,) and `image_id`.
        output: `boxes`, `labels` and `scores`.
        """
        number = len(self.images) + 1
        self.images.append(int(target["image_id"]) if "image_id" in target else number)
        boxes = as_corner_and_size(target["boxes"])
        areas = target["area"].tolist() if "area" in target else (boxes[:, 2] * boxes[:, 3]).tolist()
        crowd = target["iscrowd"].tolist() if "iscrowd" in target else [0] * len(boxes)
        for box, label, area, is_crowd in zip(boxes.tolist(), target["labels"].tolist(), areas, crowd, strict=True):
            self.truths.append(
                {
                    "id": len(self.truths) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
        found = (as_corner_and_size(output["boxes"]), output["labels"], output["scores"].float())
        for box, label, score in zip(*(part.tolist() for part in found), strict=True):
            self.detections.append({"image_id": number, "category_id": label, "bbox": box, "score": score})

    def ground_truth(self) -> dict[str, Any]:
        """The true boxes as a COCO file holds them."""
        return {
            "images": [{"id": number} for number in range(1, len(self.images) + 1)],
            "categories": [{"id": label, "name": str(label)} for label in range(1, self.num_classes + 1)],
            "annotations": self.truths,
        }

    def scores(self, classes: Sequence[str]) -> dict[str, float]:
        """`map` (over IoU from 0.5 to 0.95), `map50`, `map75`, `ar1`, `ar10` and `ar100` (recall with so many boxes an
        image), both by the size of objects, and `map/<class>`. Sizes and classes that do not occur are left out."""
        if not self.images:
            return {}
        if not self.detections:
            occurring = {row["category_id"] for row in self.truths if not row["iscrowd"]}
            by_class = {f"map/{name}": 0.0 for label, name in enumerate(classes, start=1) if label in occurring}
            return {**dict.fromkeys((*MAIN, "ar1", "ar10", "ar100"), 0.0), **by_class}
        evaluator = self.evaluate()
        found = {name: float(evaluator.stats[place]) for name, place in SUMMARY.items()}
        scores = {name: max(score, 0.0) for name, score in found.items() if score >= 0 or name in MAIN}
        precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
        for label, name in enumerate(classes):
            of_class = precision[:, :, label]
            if (of_class > -1).any():
                scores[f"map/{name}"] = float(numpy.mean(of_class[of_class > -1]))
        return scores

    def evaluate(self) -> Any:
        """faster-coco-eval's evaluator, after it has summarised."""
        from faster_coco_eval import COCO, COCOeval_faster

        truth = COCO(self.ground_truth())
        evaluator = COCOeval_faster(truth, truth.loadRes(self.detections), "bbox", print_function=lambda *_: None)
        evaluator.params.imgIds = list(range(1, len(self.images) + 1))
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator

    def results_file(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The detections in COCO's format of results, with the data set's own numbers of images and categories."""
        return [
            {
                **row,
                "image_id": self.images[row["image_id"] - 1],
                "category_id": category_ids[row["category_id"] - 1],
                "bbox": [round(edge, 3) for edge in row["bbox"]],
            }
            for row in self.detections
        ]


def as_corner_and_size(boxes: Tensor) -> Tensor:
    """Boxes as left, top, width and height, on the CPU in double precision."""
    from torchvision.ops import box_convert

    return box_convert(boxes.detach().double().cpu().reshape(-1, 4), "xyxy", "xywh")
