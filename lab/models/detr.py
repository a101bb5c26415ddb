"""The DETR family of Hugging Face's transformers, with the interface of torchvision's detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.text import suggest

# of models that transformers gives no image processor of their own
OTHER_PROCESSORS = {"d_fine": "rt_detr", "rt_detr_v2": "rt_detr", "dab-detr": "conditional_detr"}
PROCESSOR_FILE = "preprocessor_config.json"
MIN_SCORE = 0.001  # of the boxes that are given, as a score over all confidences needs those of low confidence


class Detr(nn.Module):
    """Wraps an object detection model of transformers (Carion et al. 2020, arXiv:2005.12872).

    It takes a list of images, each (3, H, W) from 0 to 1, and in training their targets, dicts with `boxes` (N, 4) in
    pixels and `labels` (N,) from 1. In training it gives a dict with the `loss`, else a dict with `boxes`, `labels` and
    `scores` for each image.

    processor: transformers' image processor of the model, which resizes, standardises and pads, and reads its outputs.
    """

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        self.model, self.processor = model, processor
        # kept with a run, which can be built from it where the folder or the hub is out of reach
        configuration: Any = model.config
        self.files = {
            "config.json": configuration.to_json_string().encode(),
            PROCESSOR_FILE: processor.to_json_string().encode(),
        }

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        inputs = self.processor(images=list(images), return_tensors="pt", do_rescale=False)
        device = images[0].device
        arguments = {name: inputs[name].to(device) for name in ("pixel_values", "pixel_mask") if name in inputs}
        if self.training:
            if targets is None:
                raise ValueError("in training the model takes targets beside the images")
            # a padded batch: boxes are shares of the image's own part of it
            labels = [relative_target(target, image) for target, image in zip(targets, images, strict=True)]
            return {"loss": self.model(**arguments, labels=labels).loss}
        outputs = self.model(**arguments)
        sizes = torch.tensor([image.shape[1:] for image in images], device=device)
        found = self.processor.post_process_object_detection(outputs, threshold=MIN_SCORE, target_sizes=sizes)
        return [{**rows, "labels": rows["labels"] + 1} for rows in found]


def relative_target(target: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """`class_labels` from 0, and `boxes` as center, width and height, in shares of the image."""
    from torchvision.ops import box_convert

    height, width = image.shape[1:]
    scale = target["boxes"].new_tensor([width, height, width, height])
    return {"class_labels": target["labels"] - 1, "boxes": box_convert(target["boxes"] / scale, "xyxy", "cxcywh")}


def image_processor(model_type: str, folder: Path | None, image_size: Sequence[int] | None) -> Any:
    """transformers' image processor of a model.

    folder: one that may have a preprocessor_config.json.  image_size: lengths of the shorter and the longer side of
    resized images; a height and a width for models that take one size. None for the model's own.
    Raises ValueError for a model that detects no objects.
    """
    from transformers.models.auto import image_processing_auto

    auto: Any = image_processing_auto
    names = auto.IMAGE_PROCESSOR_MAPPING_NAMES
    known = names.get(OTHER_PROCESSORS.get(model_type, model_type))
    if not known or "torchvision" not in known:
        raise ValueError(f"{model_type} is no object detector that transformers can process images for")
    kind = auto.get_image_processor_class_from_name(known["torchvision"])
    processor = kind.from_pretrained(folder) if folder and (folder / PROCESSOR_FILE).is_file() else kind()
    if image_size is not None:
        is_fixed = "height" in dict(processor.size)
        names_of_sides = ("height", "width") if is_fixed else ("shortest_edge", "longest_edge")
        processor.size = type(processor.size)(**dict(zip(names_of_sides, image_size, strict=True)))
    return processor


def object_detectors() -> list[str]:
    """The model types of transformers that detect objects."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return list(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


def check_object_detector(model_type: str) -> None:
    """Raises ValueError for a model type that is none of them."""
    if model_type not in object_detectors():
        raise ValueError(f"{model_type} detects no objects; {suggest(model_type, object_detectors())}")
