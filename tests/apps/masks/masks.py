"""A project whose targets are dense: bright squares on noise, and a mask of each image that says where they are."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    def loss(self, model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        images, masks = batch
        return F.cross_entropy(model(images), masks)

    def score(self, model: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> dict[str, float]:
        right = torch.cat([(model(images).argmax(1) == masks).flatten() for images, masks in batches])
        return {"pixel_accuracy": right.float().mean().item()}
