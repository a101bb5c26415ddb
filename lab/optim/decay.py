"""Weight decay only for matrices, not for biases and the parameters of normalisations.

Source: He et al. 2019, arXiv:1812.01187, sec. 3.1, "no bias decay", after Jia et al. 2018, arXiv:1807.11205.
"""

from collections.abc import Sequence
from typing import Any


def no_decay_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split each parameter group in two that keep its options: one of the tensors with two or more dimensions, and one
    of the others, without weight decay, named `name (no decay)`.

    Scales and shifts of normalisations, biases and layer scales have one dimension. Embeddings, including position
    embeddings, have two or more and keep their weight decay.
    """
    split: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        matrices = [p for p in group["params"] if p.dim() >= 2]
        others = [p for p in group["params"] if p.dim() < 2]
        name = group.get("name", number)
        if matrices or not others:
            split.append({**group, "params": matrices})
        if others:
            split.append({**group, "params": others, "name": f"{name} (no decay)", "weight_decay": 0.0})
    return split
