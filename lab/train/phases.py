"""The phases of a strategy: which groups train from when on, and whether each does what it says."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lab.distributed.shards import local_tensor
from lab.run import Run
from lab.text import join_names


def phase_starts(run: Run) -> list[int]:
    """The first step of each phase."""
    return sorted({first_step_of(group, run) for group in run.optimizer.param_groups})


def first_step_of(group: dict, run: Run) -> int:
    """The first step in which a group trains: that which begins its `from_epoch`."""
    # rounded: 3 * 0.1 epochs of 10 steps are 3 steps, though 3.0000000000000004 in floating point
    return math.ceil(round(group.get("from_epoch", 0) * run.cadence.steps_per_epoch, 6)) + 1


def set_trainable(run: Run, n: int) -> None:
    """Freeze the groups whose time has not come by step n, let the others train."""
    for group in run.optimizer.param_groups:
        trains = n >= first_step_of(group, run)
        for parameter in group["params"]:
            parameter.requires_grad_(trains)


class FreezeCheck:
    """That every parameter which is to train gets a gradient, and that none of the others moves.

    A method that trains nothing (an adapter on a weight that the forward pass does not read) looks like one that does
    not help; here it is an error.
    """

    def __init__(self, run: Run):
        named = dict(run.model.named_parameters())
        ours = {id(p) for p in run.trainable}
        self.whole = all(id(p) in ours for p in named.values())  # sooner or later all of the model trains
        self.training = {name: p for name, p in named.items() if id(p) in ours and p.requires_grad}
        self.frozen = {name: p for name, p in named.items() if name not in self.training}
        self.before = checksums(self.frozen.values())

    def check(self) -> None:
        """To be asked once, after a step, while its gradients are there. Raises ValueError with what is broken."""
        without = [name for name, p in self.training.items() if p.grad is None]
        # who trains everything has not named what the forward pass does not use
        if without and (not self.whole or len(without) == len(self.training)):
            raise ValueError(
                f"finetune_strategy is to train {join_names(without)}, but no gradient reached it: the model's forward "
                "pass does not use it. Name other modules, or finetune_strategy=full"
            )
        after = checksums(self.frozen.values())
        moved = [name for name, a, b in zip(self.frozen, self.before, after, strict=True) if a != b]
        if moved:
            raise ValueError(
                f"finetune_strategy is to leave {join_names(moved)} as it is, but a step moved it: an optimizer or a "
                "regularizer changes what is not in its groups"
            )


def checksums(parameters: Iterable[nn.Parameter]) -> list[int]:
    """Of each one's bits, read as integers: a step that moves it leaves another sum, but for a coincidence."""
    found = [as_integers(local_tensor(p.detach())).sum(dtype=torch.int64) for p in parameters]
    return torch.stack([total.cpu() for total in found]).tolist() if found else []


def as_integers(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[real.itemsize])
