"""The tutorial's small CNN: one convolution, flatten, one linear layer."""

import torch
from torch import Tensor, nn

from lab.models.weights import load_weights


class SimpleCNN(nn.Module):
    """Images (B, C, H, W) to logits (B, num_classes).

    shape: (C, H, W) of the images.  channels: number of filters of the 3x3 convolution, padded to keep H and W.
    weights: file of a state dict to start from; None for a random start.
    """

    def __init__(self, shape: list[int], num_classes: int, channels: int = 32, weights: str | None = None):
        super().__init__()
        in_channels, height, width = shape
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.head = nn.Linear(channels * height * width, num_classes)
        if weights:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).flatten(1))
