"""An exponential moving average of the weights, which is scored instead of the last weights.

Source: Polyak & Juditsky 1992; the decay warms up as in tf.train.ExponentialMovingAverage.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """After step n, average <- d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)).

    Buffers (a normalisation's statistics) are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay} is not in [0, 1)")
        self.decay, self.steps_taken = decay, 0
        self.average = deepcopy(model).requires_grad_(False)
        self.parameters: list[torch.Tensor] = list(self.average.parameters())

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        self.steps_taken += 1
        decay = min(self.decay, (1 + self.steps_taken) / (10 + self.steps_taken))
        get_ema_multi_avg_fn(decay)(self.parameters, list(model.parameters()), None)
        for average, buffer in zip(self.average.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    def model_to_score(self, model: nn.Module) -> nn.Module:
        return self.average

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.steps_taken, "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_taken = state["taken"]
        self.average.load_state_dict(state["average"])
