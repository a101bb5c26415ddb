"""The batches that an augmentation of images accepts."""

from typing import Any

import torch
from torch import Tensor

from lab.nest import describe_shapes

LabelledImages = tuple[Tensor, Tensor]


def require_images(batch: Any, augmentation: str) -> tuple[Tensor, Any]:
    """The batch as a pair of images (B, C, H, W) and targets of any kind.

    augmentation: name of the augmentation, for the message.
    Raises ValueError for any other batch.
    """
    match batch:
        case (Tensor() as images, targets) if images.dim() == 4:
            return images, targets
    raise ValueError(
        f"{augmentation} is for images: it takes batches of two parts, images (B, C, H, W) and their targets; got "
        f"{describe_shapes(batch)}; give augment=none for other data, such as tables and texts, or an augmentation of "
        "your own"
    )


def require_labels(batch: Any, augmentation: str) -> LabelledImages:
    """The batch as images (B, C, H, W) and one label for each image: (B,), or (B, C) for mixed labels.

    For augmentations that move, cut or mix pixels but do not move the targets. A mask, a map or a box locates
    something in an image; after such an augmentation it would silently train the model on the wrong pixels. One box for
    each image, (B, 4), has the shape of labels and is not detected.
    augmentation: name of the augmentation, for the message.
    Raises ValueError for targets that are not labels, and for a batch that is not images and targets.
    """
    images, targets = require_images(batch, augmentation)
    if isinstance(targets, Tensor) and targets.dim() in (1, 2) and len(targets) == len(images):
        return images, targets
    raise ValueError(
        f"{augmentation} changes the images and not their targets, which must be labels, ({len(images)},) or "
        f"({len(images)}, C); got {describe_shapes(targets)}; give augment=none, or augment=boxes_and_masks, which "
        "moves both"
    )


def require_uint8(images: Tensor, augmentation: str) -> None:
    """Raises ValueError unless the images (B, C, H, W) are uint8 with 1 or 3 channels.

    For augmentations whose operations have a strength on the scale of 0 to 255, or act on colours. mixup and cutmix
    give floats.
    augmentation: name of the augmentation, for the message.
    """
    if images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"{augmentation} takes uint8 images of 1 or 3 channels; got {describe_shapes(images)}; mixup and cutmix "
            f"give floats: in a chain, put {augmentation} before them"
        )


def require_classes(labels: Tensor, num_classes: int, augmentation: str) -> None:
    """Raises ValueError unless the labels are integers (B,), or probabilities (B, num_classes) of mixed labels.

    augmentation: name of the augmentation, for the message.
    """
    is_index = labels.dim() == 1 and not labels.is_floating_point()
    is_mixed = labels.dim() == 2 and labels.is_floating_point() and labels.shape[1] == num_classes
    if not (is_index or is_mixed):
        raise ValueError(
            f"{augmentation} mixes labels of {num_classes} classes, integers ({len(labels)},) or probabilities "
            f"({len(labels)}, {num_classes}); got {describe_shapes(labels)}; give augment=none for other targets"
        )
