"""Stochastic weight averaging: the mean of weights from the end of the run, scored instead of the last weights.

Source: Izmailov et al. 2018, arXiv:1803.05407, Alg. 1.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_swa_multi_avg_fn


class SWA:
    """average <- (average * taken + weights) / (taken + 1), at step `start` and every `every` steps (Alg. 1's c) after.

    start: share of the run after which averaging begins; before that the model itself is scored.
    every: number of steps between two weights of the average; None for an epoch.

    The paper keeps the learning rate high, constant or cyclic, while it averages. Choose such a schedule:
    schedule=constant, or schedule=wsd with schedule.decay_share=0. Once the rate has decayed to nothing, the average
    equals the last weights.

    The averaged model has seen no batch, so its BatchNorm statistics are recomputed before it is scored
    (`statistics_stale`), which costs the forward passes of an epoch for each average that is scored. Other buffers are
    copied.
    """

    def __init__(self, model: nn.Module, steps: int, steps_per_epoch: int, start: float, every: int | None = None):
        if not 0 <= start <= 1:
            raise ValueError(f"start {start} is not a share of the run; give a number from 0 to 1")
        if every is not None and every < 1:
            raise ValueError(f"every={every} is not a positive number of steps; null is once an epoch")
        self.start, self.every = round(start * steps), every or steps_per_epoch
        self.steps_seen = 0
        self.taken = 0  # number of weights in the average
        self.statistics_stale = False
        self.average = deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        self.steps_seen += 1
        since = self.steps_seen - self.start
        if since < 0 or since % self.every:
            return
        get_swa_multi_avg_fn()(list(self.average.parameters()), list(model.parameters()), self.taken)
        for average, buffer in zip(self.average.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.taken += 1
        self.statistics_stale = self.taken > 1  # an average of one keeps the statistics of its only model

    def model_to_score(self, model: nn.Module) -> nn.Module:
        return self.average if self.taken else model

    def statistics_updated(self) -> None:
        self.statistics_stale = False

    def state_dict(self) -> dict[str, Any]:
        counts = {"steps_seen": self.steps_seen, "taken": self.taken, "stale": self.statistics_stale}
        return {**counts, "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_seen, self.taken, self.statistics_stale = state["steps_seen"], state["taken"], state["stale"]
        self.average.load_state_dict(state["average"])
