"""A project of a user: intertwined spirals, and a small network that tells them apart."""

import math

import torch
from torch import Tensor, nn

from lab.data.in_memory import Examples, InMemory, split_examples


def spirals(num_classes: int, shape: list[int], turns: float, batch_size: int, seed: int) -> InMemory:
    """Points (2,) on `num_classes` spirals with a little noise.  turns: number of turns of each spiral."""
    generator = torch.Generator().manual_seed(0)

    def draw_points(num: int) -> Examples:
        labels = torch.arange(num) % num_classes
        radius = torch.rand(num, generator=generator)
        angle = 2 * math.pi * (turns * radius + labels / num_classes)
        noise = 0.02 * torch.randn(num, *shape, generator=generator)
        return Examples(torch.stack([radius * angle.cos(), radius * angle.sin()], 1) + noise, labels)

    train, val = split_examples(draw_points(1000), 0.1, seed)
    return InMemory(train, val, draw_points(200), batch_size=batch_size, seed=seed)


class Sines(nn.Module):
    """Points (B, 2) to logits (B, num_classes) through random sines and two layers."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, num_classes)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.body(6 * points))
