"""Multi-head attention and Transformer blocks, for sequences decoded at once or token by token.

Source: Vaswani et al. 2017, arXiv:1706.03762; rotary positions: Su et al. 2021, arXiv:2104.09864.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # (B, heads, S, width / heads) each


class Attention(nn.Module):
    """Multi-head attention by torch's fused kernels.

    rotary: whether queries and keys are turned by their positions, for self-attention without position embeddings.
    Raises ValueError where `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, rotary: bool = False):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        if rotary and width // heads % 2:
            raise ValueError(f"rotary positions need heads of an even size, not {width // heads}")
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor, positions: Tensor | None = None) -> KeysValues:
        """memory: (B, S, width).  positions: (B, S) or (S,); None for cross-attention."""
        keys, values = self.split(self.key(memory)), self.split(self.value(memory))
        return self.turn(keys, positions), values

    def queries(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.turn(self.split(self.query(x)), positions)

    def forward(
        self,
        x: Tensor,
        memory: KeysValues,
        mask: Tensor | None = None,
        is_causal: bool = False,
        positions: Tensor | None = None,
    ) -> Tensor:
        """x: (B, T, width).  mask: bool, true where a key may be seen, (B or 1, 1, T or 1, S)."""
        keys, values = memory
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            self.queries(x, positions), keys, values, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (B, T, S), the mean over the heads."""
        scores = self.queries(x) @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1).mean(1)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def turn(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Turn each pair of features (i, i + D / 2) of x (B, heads, T, D) by positions / 10000^(2 i / D)."""
        if not self.rotary or positions is None:
            return x
        half = x.shape[-1] // 2
        rates = 10000 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = positions[..., None] * rates  # (B, T, D / 2) or (T, D / 2)
        angles = angles.unsqueeze(-3) if angles.dim() == 3 else angles
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a memory if `crosses`, and a feed-forward network, each with a shortcut and a
    normalisation.

    norm_first: whether a part's input is normalised, as in GPT-2, or the sum after it, as in the paper.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        *,
        crosses: bool = False,
        norm_first: bool = True,
        rotary: bool = False,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads, dropout, rotary)
        self.attention_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, dropout) if crosses else None
        self.cross_norm = nn.LayerNorm(width) if crosses else None
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
        positions: Tensor | None = None,
        memory: Tensor | KeysValues | None = None,
        memory_mask: Tensor | None = None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues, KeysValues | None]:
        """The states (B, T, width), the keys and values of all positions so far, and those of the memory.

        past: keys and values of the positions before x.  memory: states (B, S, width), or their keys and values.
        """
        y = self.before(x, self.attention_norm)
        present = self.attention.keys_values(y, positions)
        if past is not None:
            present = torch.cat([past[0], present[0]], 2), torch.cat([past[1], present[1]], 2)
        x = self.after(x, self.attention(y, present, mask, is_causal, positions), self.attention_norm)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            memory = self.cross.keys_values(memory) if isinstance(memory, Tensor) else memory
            y = self.before(x, self.cross_norm)
            x = self.after(x, self.cross(y, memory, memory_mask), self.cross_norm)
        y = self.before(x, self.feed_forward_norm)
        x = self.after(x, self.feed_forward(y), self.feed_forward_norm)
        return x, present, None if isinstance(memory, Tensor) else memory

    def before(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.norm_first else x

    def after(self, x: Tensor, change: Tensor, norm: nn.Module) -> Tensor:
        total = x + self.drop(change)
        return total if self.norm_first else norm(total)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Position encodings (..., width) of positions (...), Vaswani et al. 2017, sec. 3.5."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def key_mask(inputs: Mapping[str, Any]) -> Tensor:
    """The mask (B, 1, 1, S) of the keys that may be seen, from `attention_mask` (B, S)."""
    return inputs["attention_mask"].bool()[:, None, None]
