"""Train everything, and score the mean of the start and of what it has become.

Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903, sec. 3, eq. 1.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from lab.finetune.groups import Groups, train_only


def wise_ft(model: nn.Module, mix: float = 0.5) -> Groups:
    """One group of all parameters; scored and kept are (1 - mix) * start + mix * finetuned.

    mix: the paper's alpha, 0.5 where nothing is known of the shift; 1 is plain fine-tuning.  The start is what the
    model holds now. Parameters that the model lists as `new_parameters` had none: they are scored as trained, as the
    paper's classifier is not, which starts from a zero-shot one. Batch normalisations, which the paper's CLIP ViTs
    have none of, take their running statistics anew from the training data: those of neither end are the mean's.
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix {mix} is not from 0 (the start) to 1 (the fine-tuned weights)")
    return Groups(train_only(model, {"all": model.parameters()}), say=WiseFT(model, mix))


class WiseFT:
    """A model between the start and the one that is trained.

    Nothing of it is saved: a run that resumes is made with the same start again.
    """

    def __init__(self, model: nn.Module, mix: float):
        new = set(getattr(model, "new_parameters", ()))
        self.mix, self.mixed, self.made_of = mix, None, None
        self.statistics_stale = False
        self.steps = 0
        self.start = {
            name: tensor.detach().clone()
            for name, tensor in named_tensors(model)
            if tensor.is_floating_point() and name not in new
        }

    def step(self, model: nn.Module) -> None:
        self.steps += 1  # a fused optimizer changes weights without a new version of them

    @torch.no_grad()
    def model_to_score(self, model: nn.Module) -> nn.Module:
        """The mean with `model`, the trained one or an average of it, as a module of its own."""
        if self.mixed is None:  # not before: the model has come to its device since
            self.mixed = deepcopy(model).requires_grad_(False)
            self.start = {name: self.start[name].to(t.device) for name, t in named_tensors(model) if name in self.start}
        made_of = (id(model), self.steps, sum(tensor._version for _, tensor in named_tensors(model)))
        if made_of != self.made_of:
            for (name, mixed), (_, tensor) in zip(named_tensors(self.mixed), named_tensors(model), strict=True):
                start = self.start.get(name)
                mixed.copy_(tensor if start is None else torch.lerp(start, tensor, self.mix))
            self.made_of, self.statistics_stale = made_of, 0 < self.mix < 1
        return self.mixed

    def statistics_updated(self) -> None:
        self.statistics_stale = False


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers by name, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
