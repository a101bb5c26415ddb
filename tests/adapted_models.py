"""Models of every kind that LoRA can adapt, and the parametrizations by them and by the two strategies."""

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.finetune.dora import dora
from lab.finetune.lora import lora
from lab.models.mlp import MLP


class Convolutions(nn.Module):
    """Images (B, 3, 8, 8) to logits (B, 4) by convolutions of one, two and three dimensions, one in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped, self.volume = nn.Conv2d(8, 8, 3, groups=2), nn.Conv3d(1, 2, (8, 3, 3))
        self.sequence, self.norm, self.head = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.volume(self.grouped(F.relu(self.depthwise(self.stem(x)))).unsqueeze(1))
        return self.head(self.norm(self.sequence(x.flatten(2))).mean(2))


class Attention(nn.Module):
    """Images (B, 3, 8, 8) as 64 tokens, attending to themselves, and to a memory of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.embed, self.cross = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, kdim=3, vdim=3, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.head(self.cross(self.encoder(self.embed(tokens)), tokens, tokens)[0].mean(1))


class Recurrent(nn.Module):
    """The first row of images (B, 3, 8, 8) as 8 steps, by every recurrent layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.projected = nn.LSTM(3, 8, 2, batch_first=True, bidirectional=True, proj_size=4)
        self.lstm, self.gru, self.rnn = (kind(8, 8, batch_first=True) for kind in (nn.LSTM, nn.GRU, nn.RNN))
        self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        states = x[:, :, 0].transpose(1, 2)
        for layer in (self.projected, self.lstm, self.gru, self.rnn):
            states = layer(states)[0]
        return self.head(self.cell(states[:, -1], states[:, 0]))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "attention": Attention,
    "recurrent": Recurrent,
    "mlp": lambda: MLP([3, 8, 8], 4, [16]),
}
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
both = pytest.mark.parametrize("strategy", [lora, dora])
every_model = pytest.mark.parametrize("name", MODELS)


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def train_a_little(groups: list[dict]) -> list[dict]:
    """Stands in for training: changes every parameter of the groups."""
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                parameter += 0.1 * torch.randn_like(parameter)
    return groups


def count_by_group(groups: list[dict]) -> dict[str, int]:
    return {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
