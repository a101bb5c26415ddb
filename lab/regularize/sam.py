"""Sharpness-aware minimisation: the gradients of the worst weights nearby, applied to the weights.

Source: Foret et al. 2021, arXiv:2010.01412, eq. 2 with p = 2 and Alg. 1. A step takes two forward and backward passes.
"""

# torch's foreach functions, which its own optimizers are made of, have no public names
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class SAM:
    """Climb from w to w + rho * g / ||g||, the norm over all trained parameters together; leave the gradients there.

    rho: the radius; the paper's is 0.05 for CIFAR and ImageNet.  adaptive: ASAM (Kwon et al. 2021, arXiv:2102.11600):
    climb rho * w^2 g / || |w| g ||, which does not change when a layer is scaled; its rho is about ten times larger.
    The authors add 0.01 to |w| and leave biases unscaled; here every parameter is scaled by |w| alone.

    Weights and buffers (running statistics) are then, in every bit, what they were after the first pass. Both passes
    draw the same dropout masks, as in the authors' code (on MPS others). The loss given is the first pass's. A loss
    scale cancels in g / ||g||; where it makes gradients overflow, those of the second pass are no numbers either, and
    the scaler skips the step.
    """

    def __init__(self, model: nn.Module, rho: float, adaptive: bool = False):
        if rho <= 0:
            raise ValueError(f"rho {rho} is not positive; regularize=none does without")
        self.model, self.rho, self.adaptive = model, rho, adaptive

    def backward(self, once: Callable[[], Tensor]) -> Tensor:
        parameters = list(self.model.parameters())
        with fork_generators(parameters[0].device):
            loss = once()
        trained: list[Tensor] = [p for p in parameters if p.grad is not None]
        kept = [*trained, *self.model.buffers()]
        with torch.no_grad():
            values = [tensor.clone() for tensor in kept]
            self.climb(trained)
        for parameter in trained:
            parameter.grad = None
        try:
            once()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(kept, values)
        return loss

    def climb(self, weights: list[Tensor]) -> None:
        """w <- w + rho * g / ||g||."""
        sizes = torch._foreach_abs(weights) if self.adaptive else []

        def scaled(directions: list[Tensor]) -> list[Tensor]:
            return list(torch._foreach_mul(directions, sizes)) if sizes else directions

        uphill = scaled([w.grad for w in weights if w.grad is not None])
        # of gradients that are all 0 the direction is 0, not NaN
        share = self.rho / nn.utils.get_total_norm(uphill).clamp_min(torch.finfo(torch.float32).tiny)
        torch._foreach_add_(weights, torch._foreach_mul(scaled(uphill), share))


def fork_generators(device: torch.device) -> AbstractContextManager[None]:
    """Inside, what is drawn from torch's global generators leaves no trace; what is drawn after it is the same."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices, device_type="cuda")
