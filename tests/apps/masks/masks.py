"""A project whose targets are dense: bright squares on noise, and a mask of each image that says where they are."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.metrics.scores import Evaluation
from lab.pictures import draw_image_grid

IGNORED = 255  # what boxes_and_masks gives the pixels outside of a moved image
Batch = tuple[Tensor, Tensor]


class Masks:
    """Images (B, 1, H, W) and masks (B, H, W) int64: 1 where a square is, 0 elsewhere, which makes num_classes 2."""

    steps_per_epoch = 10

    def __init__(self, num_classes: int, shape: list[int], batch_size: int, seed: int):
        self.shape, self.batch_size, self.seed = shape, batch_size, seed

    def batch(self, number: int) -> Batch:
        draw = torch.Generator().manual_seed(self.seed * 1000 + number)
        images = 0.1 * torch.randn(self.batch_size, *self.shape, generator=draw)
        masks = torch.zeros(self.batch_size, *self.shape[1:], dtype=torch.int64)
        for mask, (top, left) in zip(masks, torch.randint(4, (self.batch_size, 2), generator=draw), strict=True):
            mask[top : top + 4, left : left + 4] = 1
        return images + masks[:, None], masks

    def batches(self, after: int = 0) -> Iterator[Batch]:
        return map(self.batch, range(after, after + self.steps_per_epoch))

    def val(self) -> Iterator[Batch]:
        return iter([self.batch(998)])

    def test(self) -> Iterator[Batch]:
        return iter([self.batch(999)])


class PixelClasses(nn.Conv2d):
    """Images (B, C, H, W) to logits (B, num_classes, H, W)."""

    def __init__(self, shape: list[int], num_classes: int):
        super().__init__(shape[0], num_classes, kernel_size=3, padding=1)


class Segmentation:
    """Batches are pairs of images (B, C, H, W) and masks (B, H, W)."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def loss(self, model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        images, masks = batch
        return F.cross_entropy(model(images), masks, ignore_index=IGNORED)

    def size(self, batch: Batch) -> Tensor:
        """The number of pixels that the loss is a mean over."""
        return (batch[1] != IGNORED).sum()

    def score(self, model: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> Evaluation:
        """pixel_accuracy, iou (the mean over classes of intersection over union) and iou/<class>, with a picture of
        predicted masks. Pixels of class 255 lie outside of an image that was moved, and do not count."""
        counts, shown = torch.zeros(self.num_classes, self.num_classes), None
        for images, masks in batches:
            predicted = model(images).argmax(1)
            pairs = (masks * self.num_classes + predicted)[masks != IGNORED].cpu()
            counts += torch.bincount(pairs, minlength=self.num_classes**2).view_as(counts)
            shown = predicted[:, None].float() if shown is None else shown
        if shown is None:
            return Evaluation({})
        iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal()).clamp_min(1)
        by_class = {f"iou/{number}": float(value) for number, value in enumerate(iou)}
        accuracy = float(counts.diagonal().sum() / counts.sum())
        pictures = {"predicted": partial(draw_image_grid, shown)}
        return Evaluation({"pixel_accuracy": accuracy, "iou": float(iou.mean()), **by_class}, pictures=pictures)
