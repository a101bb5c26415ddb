"""Learning-rate schedules: a multiplier on the base lr of each parameter group, as a function of the steps taken.

All lengths are shares of the run, so that the same options serve runs of any length.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class LambdaSchedule:
    """Sets the lr of every group to its base lr times multiplier(n) before step n + 1, n = 0 ... steps - 1.

    torch's LambdaLR does the same, but its step costs ten times as much, which is noticeable on small models.

    taken: number of optimizer steps taken.
    """

    def __init__(self, optimizer: Optimizer, multiplier: Callable[[int], float]):
        self.optimizer, self.multiplier = optimizer, multiplier
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.taken = 0
        self.set_lrs()

    def step(self) -> None:
        self.taken += 1
        self.set_lrs()

    def set_lrs(self) -> None:
        factor = self.multiplier(self.taken)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
        self.set_lrs()


def constant(optimizer: Optimizer) -> LambdaSchedule:
    """The base lr throughout."""
    return LambdaSchedule(optimizer, lambda taken: 1.0)


def cosine(optimizer: Optimizer, steps: int, warmup_share: float = 0.0, final: float = 0.0) -> LambdaSchedule:
    """Linear from 0 to 1 over `warmup_share` of the run, then half a cosine to `final`:
    final + (1 - final) (1 + cos(pi done)) / 2, with `done` the finished share of the steps after the warmup.

    Source: SGDR, Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5 with one period; the linear warmup is Goyal et al.
    2017, arXiv:1706.02677, sec. 2.2.
    """
    warmup = to_steps(warmup_share, steps)

    def multiplier(taken: int) -> float:
        if taken < warmup:
            return (taken + 1) / warmup
        done = (taken - warmup) / max(1, steps - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return LambdaSchedule(optimizer, multiplier)


def step(optimizer: Optimizer, steps: int, milestones: Sequence[float], factor: float = 0.1) -> LambdaSchedule:
    """factor^k after the first k milestones, which are shares of the run (He et al. 2016, arXiv:1512.03385, sec. 4.2:
    1/2 and 3/4)."""
    milestone_steps = [to_steps(share, steps) for share in milestones]
    return LambdaSchedule(optimizer, lambda taken: factor ** sum(taken >= milestone for milestone in milestone_steps))


def wsd(
    optimizer: Optimizer, steps: int, warmup_share: float, decay_share: float, final: float = 0.0
) -> LambdaSchedule:
    """Warmup, stable, decay: linear from 0 to 1 over `warmup_share` of the run, flat, then linear to `final` over the
    last `decay_share` of the run.

    Raises ValueError if the two shares exceed the run.

    Source: Hu et al. 2024, MiniCPM, arXiv:2404.06395, sec. 4, with the linear decay of Hägele et al. 2024,
    arXiv:2405.18392.
    """
    warmup, decay = to_steps(warmup_share, steps), to_steps(decay_share, steps)
    if warmup + decay > steps:
        raise ValueError(f"warmup_share {warmup_share} and decay_share {decay_share} are more than the whole run")

    def multiplier(taken: int) -> float:
        rising = (taken + 1) / warmup if taken < warmup else 1.0
        remaining = max(0, steps - taken) / max(1, decay)  # the steps before the end, in units of the decay's length
        return min(rising, final + (1 - final) * remaining, 1.0) if remaining < 1 else rising

    return LambdaSchedule(optimizer, multiplier)


def one_cycle(
    optimizer: Optimizer, steps: int, warmup_share: float = 0.3, start: float = 0.04, final: float = 4e-6
) -> LambdaSchedule:
    """Half a cosine up from `start` to 1 over `warmup_share` of the run, half a cosine down to `final`. Only the
    lr changes, not the momentum.

    Source: Smith & Topin 2019, arXiv:1708.07120; the defaults are those of torch's OneCycleLR,
    whose div_factor is 25, and whose final_div_factor, which divides the initial lr, is 1e4.
    """
    to_steps(warmup_share, steps)  # raises ValueError unless it is a share
    peak = max(1.0, warmup_share * steps - 1)

    def multiplier(taken: int) -> float:
        if taken <= peak:
            return 1 + (start - 1) * (1 + math.cos(math.pi * taken / peak)) / 2
        done = min(1.0, (taken - peak) / max(1.0, steps - 1 - peak))
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return LambdaSchedule(optimizer, multiplier)


def to_steps(share: float, steps: int) -> int:
    """A share of the run, in steps. Raises ValueError unless it is from 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is not a share of the run; give a number from 0 to 1")
    return round(share * steps)
