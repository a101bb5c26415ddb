"""An autoencoder: images through a narrow layer and back (Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647)."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.metrics.scores import Evaluation
from lab.pictures import draw_image_grid


class Autoencoder(nn.Module):
    """Images (B, C, H, W) to images of the same shape.  width: numbers that are kept of each."""

    def __init__(self, shape: list[int], width: int):
        super().__init__()
        self.shape, size = shape, shape[0] * shape[1] * shape[2]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, width))
        self.decoder = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, size))

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images)).view(-1, *self.shape)


class Reconstruction:
    """Batches are images and whatever belongs to them, which is not used."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[0])

    def score(self, model: nn.Module, batches: Any) -> Evaluation:
        """mse for each pixel, and the share of the variance that is kept, with a picture of images above theirs."""
        images = torch.cat([batch[0] for batch in batches])
        rebuilt = model(images)
        error = F.mse_loss(rebuilt, images).item()
        picture = partial(draw_image_grid, torch.cat([images[:8], rebuilt[:8]]), 16)
        scores = {"mse": error, "explained": 1 - error / images.var().item()}
        return Evaluation(scores, directions={"explained": "max"}, pictures={"rebuilt": picture})
