"""Train everything, with a penalty that pulls the weights towards their pretrained values instead of to zero.

Source: Li et al. 2018, Explicit Inductive Bias for Transfer Learning with Convolutional Networks, arXiv:1802.01483,
sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.finetune.groups import Groups, train_only
from lab.models.blocks import head_name
from lab.models.origin import origin_of


def l2_sp(model: nn.Module, alpha: float, beta: float, head: str | None = None) -> Groups:
    """Two groups, `pretrained` (S) and `new`, with the penalty alpha/2 |w_S - w_S^0|^2 + beta/2 |w_new|^2.

    w^0 are the model's current weights.
    head: name of a submodule whose parameters are the new ones; None for the parameters that the pretrained weights
        lack (see lab.models.origin), or with a random start for the model's last block.
    The penalty replaces weight decay, so the optimizer's is off in both groups. It is added to the gradients, not to
    the logged loss.
    """
    if alpha < 0 or beta < 0:
        raise ValueError(f"alpha {alpha} and beta {beta} must not be negative: the penalty would push the weights away")
    origin = origin_of(model) if head is None else None
    if origin is None:
        new = {id(p) for p in model.get_submodule(head_name(model, head)).parameters()}
    else:
        new = {id(p) for name, p in model.named_parameters() if name in origin.new}
    parameters = {
        "pretrained": [p for p in model.parameters() if id(p) not in new],
        "new": [p for p in model.parameters() if id(p) in new],
    }
    penalty = L2SP(parameters["pretrained"], parameters["new"], alpha, beta)
    return Groups(train_only(model, parameters, weight_decay=0.0), regularizer=penalty)


class L2SP:
    """Adds the penalty's gradients, alpha (w - w^0) and beta w, to those of the loss.

    It has no state to save, as a resumed run computes the same w^0 again.
    """

    def __init__(self, pretrained: Sequence[nn.Parameter], new: Sequence[nn.Parameter], alpha: float, beta: float):
        self.pretrained, self.new, self.alpha, self.beta = pretrained, new, alpha, beta
        self.start: list[Tensor] = [p.detach().clone() for p in pretrained]

    @torch.no_grad()
    def add_to_gradients(self, model: nn.Module) -> None:
        # the model was moved to its device after __init__
        if self.start and self.start[0].device != self.pretrained[0].device:
            self.start = [w0.to(w.device) for w0, w in zip(self.start, self.pretrained, strict=True)]
        pulled = [(w.grad, w, w0) for w, w0 in zip(self.pretrained, self.start, strict=True) if w.grad is not None]
        if pulled:
            grads, weights, start = map(list, zip(*pulled, strict=True))
            distances = torch._foreach_sub(weights, start)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(grads, distances, alpha=self.alpha)  # pyright: ignore[reportPrivateImportUsage]
        decayed = [(w.grad, w) for w in self.new if w.grad is not None]
        if decayed:
            grads, weights = map(list, zip(*decayed, strict=True))
            torch._foreach_add_(grads, weights, alpha=self.beta)  # pyright: ignore[reportPrivateImportUsage]
