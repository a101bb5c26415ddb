"""Linear layers whose weights are kept in 4 bits, with a low-rank change that is trained.

Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, sec. 3; the numbers are bitsandbytes'.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.models.low_rank import LoRA

BLOCK = 64  # weights that share a scale
SCALES_BLOCK = 256  # scales that share a scale of their own


class QuantizedLinear(nn.Module):
    """x to x W^T + b + scale x A^T B^T: W in NF4 with quantised scales, in buffers that no training changes.

    The backward pass expands W again instead of keeping it. Raises ImportError without bitsandbytes.
    """

    packed: Tensor
    scales: Tensor
    scale_of_scales: Tensor
    offset: Tensor

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.change = LoRA(weight, rank, alpha)
        packed, scales = quantize(weight)
        self.register_buffer("packed", packed)
        for name, tensor in scales.items():
            self.register_buffer(name, tensor)

    def dequantize(self) -> Tensor:
        """W, (out, in), in float32."""
        from bitsandbytes import functional

        device = self.packed.device
        code, scales_code = functional.get_4bit_type("nf4", device), torch.tensor(scale_numbers(), device=device)
        shape = torch.Size([self.packed.numel() * 2 // BLOCK, BLOCK])
        scales = functional.QuantState(
            self.scale_of_scales, blocksize=SCALES_BLOCK, code=scales_code, dtype=torch.float32
        )
        state = functional.QuantState(self.scales, shape, code, BLOCK, "nf4", torch.float32, self.offset, scales)
        blocks: Any = functional.dequantize_4bit(self.packed, state)
        return blocks.view(self.out_features, self.in_features)

    @property
    def weight(self) -> Tensor:
        """The changed weight, for code that reads it without calling the layer, as torch's TransformerEncoderLayer."""
        return self.change(self.dequantize())

    def merged(self) -> nn.Linear:
        """The plain layer that gives the same outputs."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(self.weight)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def forward(self, x: Tensor) -> Tensor:
        low_rank = F.linear(F.linear(x, self.change.down), self.change.up)
        y = ExpandedMatmul.apply(x, self) + self.change.scale.to(x.dtype) * low_rank
        return y if self.bias is None else y + self.bias.to(y.dtype)


class ExpandedMatmul(torch.autograd.Function):
    """x W^T of a QuantizedLinear, which expands W anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.dequantize().T.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.dequantize().to(gradients[0].dtype), None


@cache
def scale_numbers() -> tuple[float, ...]:
    """The 256 numbers that the 8 bits of a scale stand for; made once, as each pass needs them. Plain numbers, as a
    tensor may be made while a step is traced."""
    from bitsandbytes import functional

    return tuple(functional.create_dynamic_map().tolist())


def can_quantize(linear: nn.Linear) -> bool:
    return linear.weight.numel() % BLOCK == 0


def quantize(weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The weight in NF4, two numbers a byte, and the scales of its blocks. On the meta device, tensors of their sizes
    alone."""
    if weight.is_meta:
        count = weight.numel() // BLOCK
        sizes = {"scales": (count, torch.uint8), "scale_of_scales": (-(-count // SCALES_BLOCK), torch.float32)}
        scales = {name: torch.empty(size, dtype=kind) for name, (size, kind) in sizes.items()}
        return torch.empty(weight.numel() // 2, 1, dtype=torch.uint8), {**scales, "offset": torch.empty(())}
    try:
        from bitsandbytes import functional
    except ModuleNotFoundError as error:
        raise ImportError("qlora needs bitsandbytes: pip install 'lab[quantize]'") from error
    # in rows of one block, as its kernel for the CPU is wrong where a row is no multiple of a block
    blocks = weight.float().contiguous().view(-1, BLOCK)
    packed, state = functional.quantize_4bit(blocks, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    scales: Any = state  # its parts are optional, and all there with compressed statistics
    return packed, {
        "scales": scales.absmax,
        "scale_of_scales": scales.state2.absmax,
        "offset": scales.offset,
    }


def merge_quantized(model: nn.Module) -> None:
    """Put plain layers in the place of quantised ones."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.merged())
