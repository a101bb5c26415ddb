"""DoRA: LoRA trains the direction of a weight, and a separate parameter its magnitude.

Source: Liu et al. 2024, arXiv:2402.09353, eq. 5, with the norm held constant in the backward pass (sec. 4.3).
"""

from pathlib import Path

from torch import nn

from lab.finetune.groups import ParameterGroups
from lab.finetune.lora import lora
from lab.finetune.peft import load_adapter
from lab.models.low_rank import Magnitude, adapt_tensor, adapted_tensors


def dora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: list[str] | None = None,
    head: str | None = None,
    train_head: bool = True,
    adapter: str | None = None,
) -> ParameterGroups:
    """As `lora`, with the same options and a third group, `magnitude`, of one number m for each output of a weight.

    Each weight W becomes m * V / |V| with V = W + alpha / rank * B A, and m = |W| at the start. |V| is the norm of the
    weights of one output: a column of the paper's W, which is transposed, and a row of torch's.
    """
    groups = lora(model, rank, alpha, targets, head, train_head)
    by_change: dict[int, Magnitude] = {}  # modules that share a weight share its change and its magnitude
    for _, module, name, change in adapted_tensors(model):
        if id(change) not in by_change:
            by_change[id(change)] = Magnitude(getattr(module, name).detach(), change.transposed is not None)
        adapt_tensor(module, name, by_change[id(change)])
    magnitudes = [magnitude.magnitude for magnitude in by_change.values()]
    if adapter:
        load_adapter(model, Path(adapter))
    return [groups[0], {"name": "magnitude", "params": magnitudes}, *groups[1:]]
