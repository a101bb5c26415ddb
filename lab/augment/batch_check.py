"""The batches that an augmentation of images accepts."""

from typing import Any

from torch import Tensor

from lab.nest import describe_shapes

LabelledImages = tuple[Tensor, Tensor]


def require_images(batch: Any, augmentation: str) -> tuple[Tensor, Any]:
    """The batch as images (B, C, H, W) and their targets, of any kind.

    augmentation: its name, for the message.
    Raises ValueError for a batch that is no such pair.
    """
    match batch:
        case (Tensor() as images, targets) if images.dim() == 4:
            return images, targets
    raise ValueError(
        f"{augmentation} takes batches of two parts, images (B, C, H, W) and their targets; got "
        f"{describe_shapes(batch)}; give augment=none, or an augmentation of your own for such batches"
    )


def require_labels(batch: Any, augmentation: str) -> LabelledImages:
    """The batch as images (B, C, H, W) and a label for each of them, (B,) or (B, C), such as mixed labels.

    For an augmentation that moves, cuts or mixes pixels and leaves the targets in their place: a mask, a map or a box
    says where something lies in an image, and after the images have moved it would train the model on the wrong
    pixels, in silence. One box for each image, (B, 4), has the shape of labels and is not noticed.
    Raises ValueError for targets that are not labels, and for a batch that is not images and targets.
    """
    images, targets = require_images(batch, augmentation)
    if isinstance(targets, Tensor) and targets.dim() in (1, 2) and len(targets) == len(images):
        return images, targets
    raise ValueError(
        f"{augmentation} changes the images and not their targets, which must be labels, ({len(images)},) or "
        f"({len(images)}, C); got {describe_shapes(targets)}; give augment=none, or an augmentation of your own that "
        f"moves both"
    )
