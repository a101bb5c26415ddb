"""The batches that an augmentation of images accepts."""

from typing import Any

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
        f"{augmentation} takes batches of two parts, images (B, C, H, W) and their targets; got "
        f"{describe_shapes(batch)}; give augment=none, or an augmentation of your own for such batches"
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
        f"({len(images)}, C); got {describe_shapes(targets)}; give augment=none, or an augmentation of your own that "
        f"moves both"
    )
