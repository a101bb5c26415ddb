"""The residual networks for CIFAR: ResNet-20, -32, -44, -56, -110.

Source: He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385, sec. 4.2.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lab.models.weights import load_weights


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper, sec. 3.3)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.new_channels:
            return x
        # the new channels are zeros, half of them before and half after the others, as published weights expect
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ResNet(nn.Module):
    """Images (B, C, H, W) to logits (B, num_classes), through 6 * blocks_per_stage + 2 layers with weights.

    shape: (C, H, W) of the images, with a height and width of at least 4.
    weights: file of a state dict to start from; None for a random start (He et al. 2015, arXiv:1502.01852, eq. 10).
    """

    def __init__(self, blocks_per_stage: int, shape: list[int], num_classes: int, weights: str | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = make_stage(16, 16, blocks_per_stage, stride=1)
        self.layer2 = make_stage(16, 32, blocks_per_stage, stride=2)
        self.layer3 = make_stage(32, 64, blocks_per_stage, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        if weights:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def make_stage(channels_in: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(num_blocks - 1)))
