"""The network of airbench94, which reaches 94 % on CIFAR-10 in seconds on a GPU.

Source: Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, sec. 3.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.models.weights import load_weights

PATCH = 2  # pixels of the sides of the patches that are whitened
BIAS_SCALE = 8.0  # a bias of 8 c learns 64 times as fast as a bias of c, as the paper's learning rates have it


class AirbenchNet(nn.Module):
    """Images (B, 3, H, W), H and W at least 16, to logits (B, num_classes).

    The first layer whitens patches of 2x2 pixels by the eigenvectors of their covariance and is not trained; the first
    batch that it sees in training gives the covariance (the paper: 5,000 training images).
    test_augmentation: whether in evaluation the logits are averaged over the image, its mirror image, and both moved by
        one pixel (sec. 3.5).
    """

    whitening: Tensor
    is_whitening: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        widths: Sequence[int] = (64, 256, 256),
        test_augmentation: bool = True,
        weights: str | None = None,
    ):
        super().__init__()
        patch = shape[0] * PATCH**2
        self.test_augmentation = test_augmentation
        self.register_buffer("whitening", torch.zeros(2 * patch, shape[0], PATCH, PATCH))
        self.register_buffer("is_whitening", torch.tensor(False))
        self.whitening_bias = nn.Parameter(torch.zeros(2 * patch))
        channels = [2 * patch, *widths]
        self.groups = nn.Sequential(*(ConvGroup(*pair) for pair in pairwise(channels)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        if weights:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> Tensor:
        if self.training or not self.test_augmentation:
            return self.logits(images)
        moved = F.pad(images, (1, 1, 1, 1), mode="reflect")
        height, width = images.shape[2:]
        corners = [moved[:, :, :height, :width], moved[:, :, 2:, 2:]]
        return (self.mirrored(images) + (self.mirrored(corners[0]) + self.mirrored(corners[1])) / 2) / 2

    def mirrored(self, images: Tensor) -> Tensor:
        return (self.logits(images) + self.logits(images.flip(3))) / 2

    def logits(self, images: Tensor) -> Tensor:
        if self.training and not self.is_whitening:
            self.whitening.copy_(whitening_filters(images.detach().float()))
            self.is_whitening.fill_(True)
        x = F.gelu(F.conv2d(images, self.whitening.to(images.dtype), self.whitening_bias))
        return self.head(self.groups(x).amax((2, 3))) / 9


class ConvGroup(nn.Module):
    """Two convolutions that begin as the identity on their first channels (sec. 3.3), a pooling after the first."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = ScaledBiasNorm(channels), ScaledBiasNorm(channels)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class ScaledBiasNorm(nn.BatchNorm2d):
    """Batch normalisation without a scale, whose bias is 8 times its parameter."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-12, momentum=0.4, affine=False)
        self.small_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + BIAS_SCALE * self.small_bias[:, None, None]


def whitening_filters(images: Tensor, eps: float = 5e-4) -> Tensor:
    """The eigenvectors of the patches' covariance, each divided by the root of its eigenvalue, and their negatives:
    (2 C 2 2, C, 2, 2).  images: (B, C, H, W)."""
    channels = images.shape[1]
    patches = F.unfold(images, PATCH).transpose(1, 2).reshape(-1, channels * PATCH**2)
    covariance = patches.T @ patches / len(patches)
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    filters = (vectors / (values + eps).sqrt()).T.flip(0).reshape(-1, channels, PATCH, PATCH)
    return torch.cat([filters, -filters]).to(images)
