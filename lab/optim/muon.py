"""Muon for the matrices, AdamW for the rest, as one optimizer.

Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; Liu et al. 2025, arXiv:2502.16982.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """torch.optim.Muon takes matrices (2-D) alone; filters, biases and norms go to torch.optim.AdamW.

    params: as for any torch optimizer. A group is divided in two, and both keep its options.
    lr, momentum, weight_decay: Muon's; adamw_lr and betas: AdamW's, with the same weight decay.
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
        given = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        matrices = split_groups(given, lambda p: p.dim() == 2, 1.0)
        others = split_groups(given, lambda p: p.dim() != 2, adamw_lr / lr)
        if not matrices:
            raise ValueError("no 2-D parameter for muon; use optimizer=adamw")
        inner: list[Optimizer] = [torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)]
        if others:
            both = (betas[0], betas[1])
            inner.append(torch.optim.AdamW(others, lr=adamw_lr, betas=both, weight_decay=weight_decay, fused=True))
        # the same dicts are groups here and there: a schedule that sets a group's lr sets the inner optimizer's
        super().__init__([group for part in inner for group in part.param_groups], {})
        self.inner = inner

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for inner in self.inner:
            inner.step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [inner.state_dict() for inner in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups: list[dict[str, Any]] = []
        for inner, state in zip(self.inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)
            groups += inner.param_groups
        # in place: the schedule holds this list
        self.param_groups[:] = groups


def split_groups(groups: list[dict[str, Any]], belongs: Any, scale: float) -> list[dict[str, Any]]:
    """The groups with only the parameters that belong; a group's own lr is scaled as the base rates are."""
    parts: list[dict[str, Any]] = []
    for group in groups:
        chosen: list[Tensor] = [p for p in group["params"] if belongs(p)]
        if chosen:
            own = {"lr": group["lr"] * scale} if "lr" in group else {}
            parts.append({**group, **own, "params": chosen})
    return parts
