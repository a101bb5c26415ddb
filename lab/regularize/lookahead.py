"""Lookahead: slow weights that follow the fast ones, and to which these return.

Source: Zhang et al. 2019, arXiv:1907.08610, Alg. 1; the decay that grows over the run is that of Jordan 2024,
arXiv:2404.00498, sec. 3.4.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Lookahead:
    """Every `every` steps, slow <- d slow + (1 - d) weights, then weights <- slow, running statistics too, with
    d = decay (n / steps)^power after step n. After the last step the weights are the slow ones.

    every: the paper's k.  decay: 1 minus the paper's alpha.  power: 0 for the paper's constant decay.
    """

    def __init__(self, model: nn.Module, steps: int, every: int = 5, decay: float = 0.5, power: float = 0.0):
        if every < 1 or not 0 <= decay < 1:
            raise ValueError(f"every={every} is not a positive number of steps, or decay={decay} is not in [0, 1)")
        self.steps, self.every, self.decay, self.power, self.taken = steps, every, decay, power, 0
        self.slow = {name: tensor.clone() for name, tensor in floating_tensors(model).items()}

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        self.taken += 1
        if self.taken % self.every and self.taken != self.steps:
            return
        decay = 1.0 if self.taken == self.steps else self.decay * (self.taken / self.steps) ** self.power
        for name, tensor in floating_tensors(model).items():
            self.slow[name] = self.slow[name].to(tensor.device).lerp_(tensor, 1 - decay)
            tensor.copy_(self.slow[name])

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "slow": self.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
        self.slow = {name: tensor.clone() for name, tensor in state["slow"].items()}


def floating_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
