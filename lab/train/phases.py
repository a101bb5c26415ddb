"""The phases of a fine-tuning strategy: the step from which each parameter group trains, and a check that it does."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lab.distributed import replicas
from lab.distributed.shards import local_tensor
from lab.run import Model, Run
from lab.text import join_names
from lab.train.scoring import set_training_mode


class Phases:
    """Brings a run into the phase of each step: freezes and unfreezes parameters, sets the training mode, wraps the
    model so that ranks average gradients, and checks the first step of each phase.

    after: last step already taken; the next step begins a phase in this process.
    """

    def __init__(self, run: Run, after: int):
        self.run, self.starts = run, {after + 1, *phase_starts(run)}
        self.model: Model = run.model
        self.freeze_check: FreezeCheck | None = None

    def enter(self, n: int) -> Model:
        """The model for the forward pass of step n."""
        if n in self.starts:
            set_trainable(self.run, n)
            set_training_mode(self.run.model)
            self.model = replicas.wrap_for_first_step(self.run.model, self.model)
            self.freeze_check = FreezeCheck(self.run)
        return self.model

    def end_step(self) -> None:
        """Call after the optimizer's step, before the gradients are cleared. Raises ValueError as FreezeCheck does."""
        if self.freeze_check:
            self.freeze_check.check()
            self.freeze_check, self.model = None, replicas.wrap_ddp(self.model)


def phase_starts(run: Run) -> list[int]:
    """The first step of each phase."""
    return sorted({first_step_of(group, run) for group in run.optimizer.param_groups})


def first_step_of(group: dict, run: Run) -> int:
    """The first step in which a group trains, at the start of its `from_epoch`."""
    # rounded before ceil: 3 * 0.1 epochs of 10 steps are 3.0000000000000004 steps in floating point
    return math.ceil(round(group.get("from_epoch", 0) * run.cadence.steps_per_epoch, 6)) + 1


def set_trainable(run: Run, n: int) -> None:
    """Freeze the groups whose phase has not begun by step n, and let the others train."""
    for group in run.optimizer.param_groups:
        trains = n >= first_step_of(group, run)
        for parameter in group["params"]:
            parameter.requires_grad_(trains)


class FreezeCheck:
    """Checks, after the first step of a phase, that every trainable parameter got a gradient and no frozen one changed.

    A method that trains nothing (such as an adapter on a weight that the forward pass does not read) would otherwise
    look like a method that does not help.
    """

    def __init__(self, run: Run):
        named = dict(run.model.named_parameters())
        ours = {id(p) for p in run.trainable}
        self.trains_all = all(id(p) in ours for p in named.values())  # in this phase or a later one
        self.training = {name: p for name, p in named.items() if id(p) in ours and p.requires_grad}
        self.frozen = {name: p for name, p in named.items() if name not in self.training}
        self.before = checksums(self.frozen.values())

    def check(self) -> None:
        """Call once, after a step and before its gradients are cleared. Raises ValueError that names the parameters."""
        without = [name for name, p in self.training.items() if p.grad is None]
        # a strategy that trains everything may include parameters that the forward pass does not use
        if without and (not self.trains_all or len(without) == len(self.training)):
            raise ValueError(
                f"finetune_strategy is to train {join_names(without)}, but no gradient reached it: the model's forward "
                "pass does not use it. Name other modules, or finetune_strategy=full"
            )
        after = checksums(self.frozen.values())
        moved = [name for name, a, b in zip(self.frozen, self.before, after, strict=True) if a != b]
        if moved:
            raise ValueError(
                f"finetune_strategy is to leave {join_names(moved)} as it is, but a step moved it: an optimizer or a "
                "regularizer changes parameters outside of its groups"
            )


def checksums(parameters: Iterable[nn.Parameter]) -> list[int]:
    """The sum of each parameter's bits, read as integers. A changed parameter has the same sum only by coincidence."""
    sums = [as_integers(local_tensor(p.detach())).sum(dtype=torch.int64) for p in parameters]
    return torch.stack([total.cpu() for total in sums]).tolist() if sums else []


def as_integers(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[real.itemsize])
