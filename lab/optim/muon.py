"""Muon for the matrices, AdamW for the rest, as one optimizer.

Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; Liu et al. 2025, arXiv:2502.16982.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """torch.optim.Muon for matrices (2-D), torch.optim.AdamW for everything else: filters, biases, normalisations.

    For the gradient G of a matrix W (rows, columns) and its buffer B, with NS five Newton-Schulz iterations towards the
    nearest semi-orthogonal matrix, torch's Muon does
        B <- momentum B + (1 - momentum) G,
        W <- (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) NS(momentum B + (1 - momentum) G).

    params: parameters or parameter groups, as in any torch optimizer. Each group is split in two that keep its options.
    lr, momentum: options of Muon.
    adamw_lr, betas: options of AdamW. In a group with its own lr, AdamW's lr is scaled by the same factor.
    weight_decay: option of both.
    Raises ValueError if no parameter is a matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        adamw_lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
    ):
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        matrices = select_parameters(groups, lambda p: p.dim() == 2, 1.0)
        others = select_parameters(groups, lambda p: p.dim() != 2, adamw_lr / lr)
        if not matrices:
            raise ValueError("no 2-D parameter for muon; use optimizer=adamw")
        optimizers: list[Optimizer] = [torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)]
        if others:
            beta1, beta2 = betas  # a config gives a list
            adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)
            optimizers.append(adamw)
        # the group dicts are shared, so that an lr that a schedule sets here is also set in the inner optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = optimizers

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups: list[dict[str, Any]] = []
        for optimizer, state in zip(self.optimizers, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
            groups += optimizer.param_groups
        # in place, because the schedule holds this list
        self.param_groups[:] = groups


def select_parameters(
    groups: list[dict[str, Any]], belongs: Callable[[Tensor], bool], lr_scale: float
) -> list[dict[str, Any]]:
    """The groups with only the parameters that belong; groups without any are left out.

    belongs: function that selects parameters.  lr_scale: factor on the lr of groups that have their own.
    """
    selected: list[dict[str, Any]] = []
    for group in groups:
        parameters = [p for p in group["params"] if belongs(p)]
        if parameters:
            own_lr = {"lr": group["lr"] * lr_scale} if "lr" in group else {}
            selected.append({**group, **own_lr, "params": parameters})
    return selected
