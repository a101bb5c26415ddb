"""Train everything, and score the mean of the starting weights and the fine-tuned ones.

Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903, sec. 3, eq. 1.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from lab.finetune.groups import Groups, train_only
from lab.models.origin import new_parameters_of


def wise_ft(model: nn.Module, mix: float = 0.5) -> Groups:
    """One group of all parameters; the model that is scored and kept is (1 - mix) * start + mix * finetuned.

    start is the model's current weights.
    mix: weight of the fine-tuned model, the paper's alpha; 0.5 if nothing is known about the shift, 1 for plain
        fine-tuning.
    Parameters that the pretrained weights lack have no start and are scored as trained; the paper's classifier has a
    start, from a zero-shot model. BatchNorm statistics, which the paper's CLIP ViTs do not have, are recomputed from
    the training data, as the statistics of neither model fit the mean.
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix {mix} is not from 0 (the start) to 1 (the fine-tuned weights)")
    return Groups(train_only(model, {"all": model.parameters()}), regularizer=WiseFT(model, mix))


class WiseFT:
    """Scores the mean of the starting weights and the trained ones.

    It has no state to save, as a resumed run builds the same starting weights again.
    """

    def __init__(self, model: nn.Module, mix: float):
        self.mix = mix
        self.mixed: nn.Module | None = None
        self.mixed_from: tuple[int, int, int] | None = None  # version of the weights that `mixed` was computed from
        self.statistics_stale = False
        self.steps = 0
        new = new_parameters_of(model)
        self.start = {
            name: tensor.detach().clone()
            for name, tensor in named_tensors(model)
            if tensor.is_floating_point() and name not in new
        }

    def step(self, model: nn.Module) -> None:
        self.steps += 1  # counted, as a fused optimizer changes weights without incrementing their _version

    @torch.no_grad()
    def model_to_score(self, model: nn.Module) -> nn.Module:
        """The mean of the start and `model`, as a separate module.  model: the trained model, or an average of it."""
        if self.mixed is None:  # copied here, when the model is on its device
            self.mixed = deepcopy(model).requires_grad_(False)
            self.start = {name: self.start[name].to(t.device) for name, t in named_tensors(model) if name in self.start}
        mixed_from = (id(model), self.steps, sum(tensor._version for _, tensor in named_tensors(model)))
        if mixed_from != self.mixed_from:
            for (name, mixed), (_, tensor) in zip(named_tensors(self.mixed), named_tensors(model), strict=True):
                start = self.start.get(name)
                mixed.copy_(tensor if start is None else torch.lerp(start, tensor, self.mix))
            self.mixed_from, self.statistics_stale = mixed_from, 0 < self.mix < 1
        return self.mixed

    def statistics_updated(self) -> None:
        self.statistics_stale = False


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, with their names."""
    yield from model.named_parameters()
    yield from model.named_buffers()
