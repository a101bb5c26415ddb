"""DoRA: a weight's direction changes by LoRA, its magnitude is trained beside it.

Source: Liu et al. 2024, arXiv:2402.09353, eq. 5, with the norm held constant in the backward pass (sec. 4.3).
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from lab.finetune.adapter import load_adapter
from lab.finetune.lora import adapt, adapted, lora


def dora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: list[str] | None = None,
    head: str | None = None,
    train_head: bool = True,
    adapter: str | None = None,
) -> list[dict]:
    """As `lora`, of which the options are, with a third group, `magnitude`: one number m for each output of a weight.

    Each weight W becomes m * V / |V| with V = W + alpha / rank * B A, and m = |W| at the start. The norm |V| is that of
    what makes one output (the column of the paper's W, which multiplies from the right; the row of torch's).
    """
    groups = lora(model, rank, alpha, targets, head, train_head)
    magnitudes = []
    for _, module, name, change in adapted(model):
        part = Magnitude(getattr(module, name).detach(), change.transposed is not None)
        adapt(module, name, part)
        magnitudes.append(part.magnitude)
    if adapter:
        load_adapter(model, Path(adapter))
    return [groups[0], {"name": "magnitude", "params": magnitudes}, *groups[1:]]


class Magnitude(nn.Module):
    """From a weight V to magnitude * V / |V|, a norm and a magnitude for each output.  transposed: V is (in, out)."""

    def __init__(self, weight: Tensor, transposed: bool = False):
        super().__init__()
        self.transposed = transposed
        self.magnitude = nn.Parameter(norms(weight, transposed).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        return rescaled(weight, self.magnitude, self.transposed)


def rescaled(weight: Tensor, magnitude: Tensor, transposed: bool) -> Tensor:
    norm = norms(weight.detach(), transposed)
    # a row of zeros has no direction: it stays, instead of becoming NaN
    return weight * (magnitude.view_as(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny))


def norms(weight: Tensor, transposed: bool) -> Tensor:
    """Of what makes each output, (out, 1, ...), or (1, out) where the weight is (in, out)."""
    return torch.linalg.vector_norm(weight, dim=0 if transposed else list(range(1, weight.dim())), keepdim=True)
