"""Contrastive learning: images without labels, scored by a linear classifier on their features.

Source: Chen et al. 2020, arXiv:2002.05709, sec. 2.
"""

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn


def two_views(batch: Any, generator: torch.Generator, *, shift: int, noise: float) -> Any:
    """Two views of each image (B, C, H, W) uint8: moved by up to `shift` pixels, and with noise."""
    images, labels = batch

    def view() -> Tensor:
        padded = F.pad(images, (shift,) * 4)
        offsets = torch.randint(2 * shift + 1, (len(images), 2), generator=generator).tolist()
        height, width = images.shape[2:]
        moved = torch.stack(
            [x[:, t : t + height, left : left + width] for x, (t, left) in zip(padded, offsets, strict=True)]
        )
        return (moved + 255 * noise * torch.randn(images.shape, generator=generator)).clamp(0, 255).to(torch.uint8)

    return torch.cat([view(), view()]), torch.cat([labels, labels])


class Encoder(nn.Module):
    """Images (B, C, H, W) to features (B, width) and their projections (B, 32)."""

    def __init__(self, shape: list[int], width: int):
        super().__init__()
        inputs = shape[0] * shape[1] * shape[2]
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(width, 32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return features, self.head(features)


class SimCLR:
    """Training batches hold the first views of all images, then the second ones."""

    monitor = "val/probe_accuracy"

    def __init__(self, temperature: float):
        self.temperature = temperature

    def bind(self, data: Any) -> None:
        self.data = data

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Eq. 1: each view is to find the other view of its image among all views of the batch."""
        projections = F.normalize(model(batch[0])[1], dim=1)
        count = len(projections)
        similar = (projections @ projections.T / self.temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(similar, (torch.arange(count, device=similar.device) + count // 2) % count)

    def slice_examples(self, batch: Any, start: int, stop: int) -> Any:
        raise ValueError("SimCLR compares every image with all others of its batch, so a batch cannot be split")

    def score(self, model: nn.Module, batches: Any) -> dict[str, float]:
        """Accuracy of a linear classifier that is fitted to the features of the training images."""
        inputs, labels = self.data.prepare(self.data.splits["train"])
        probe = RidgeClassifier(alpha=1.0).fit(model(inputs)[0].cpu(), labels.cpu())
        rows = [(model(inputs)[0].cpu(), labels.cpu()) for inputs, labels in batches]
        features, labels = (torch.cat(part) for part in zip(*rows, strict=True))
        return {"probe_accuracy": float(probe.score(features, labels))}
