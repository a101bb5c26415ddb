"""Sharpness-aware minimisation: the gradients at the worst weights nearby, applied to the current weights.

Source: Foret et al. 2021, arXiv:2010.01412, eq. 2 with p = 2 and Alg. 1. A step takes two forward and backward passes.
"""

# torch's foreach functions, which its own optimizers use, have no public names
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class SAM:
    """Climbs from w to w + rho * g / ||g|| (the norm over all trained parameters together) and leaves the gradients
    at that point in the parameters.

    rho: radius; the paper uses 0.05 for CIFAR and ImageNet.
    adaptive: whether to use ASAM (Kwon et al. 2021, arXiv:2102.11600), which climbs rho * w^2 g / || |w| g ||. It is
        invariant to the scale of a layer, and its rho is about ten times larger. The authors add 0.01 to |w| and leave
        biases unscaled; here every parameter is scaled by |w| alone.

    Weights and buffers (running statistics) are restored bit for bit to their values after the first pass. Both passes
    draw the same dropout masks, as in the authors' code (except on MPS). The returned loss is the first pass's. A loss
    scale cancels in g / ||g||; where it makes gradients overflow, those of the second pass are not finite either, and
    the scaler skips the step.
    """

    def __init__(self, model: nn.Module, rho: float, adaptive: bool = False):
        if rho <= 0:
            raise ValueError(f"rho {rho} is not positive; for no SAM give regularize=none")
        self.model, self.rho, self.adaptive = model, rho, adaptive

    def backward(self, once: Callable[[], Tensor]) -> Tensor:
        parameters = list(self.model.parameters())
        with fork_generators(parameters[0].device):
            loss = once()
        trained: list[Tensor] = [p for p in parameters if p.grad is not None]
        restored = [*trained, *self.model.buffers()]
        with torch.no_grad():
            values = [tensor.clone() for tensor in restored]
            self.climb(trained)
        for parameter in trained:
            parameter.grad = None
        try:
            once()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(restored, values)
        return loss

    def climb(self, weights: list[Tensor]) -> None:
        """w <- w + rho * g / ||g||."""
        sizes = torch._foreach_abs(weights) if self.adaptive else []

        def scale_by_sizes(directions: list[Tensor]) -> list[Tensor]:
            return list(torch._foreach_mul(directions, sizes)) if sizes else directions

        uphill = scale_by_sizes([w.grad for w in weights if w.grad is not None])
        # where all gradients are 0 the direction is 0, not NaN
        share = self.rho / nn.utils.get_total_norm(uphill).clamp_min(torch.finfo(torch.float32).tiny)
        torch._foreach_add_(weights, torch._foreach_mul(scale_by_sizes(uphill), share))


def fork_generators(device: torch.device) -> AbstractContextManager[None]:
    """A context that restores torch's global generators on exit, so that they draw the same numbers again."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices, device_type="cuda")
