"""A decoder-only Transformer language model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lab.models.attention import TransformerBlock
from lab.models.text import small_embedding
from lab.models.weights import load_weights

Inputs = Mapping[str, Tensor]
POSITIONS = ("rotary", "learned")


class GPT(nn.Module):
    """{"input_ids": (B, T) int64, "position_ids": (B, T) int64} to logits (B, T, vocab_size), at t those of the token
    that follows (Radford et al. 2019, with normalisation before each part).

    Where the position ids begin again at 0 another document begins, and no token sees those of other documents; without
    `position_ids` all tokens are one document. It also decodes token by token (`lab.models.decoding`).
    max_length: number of positions.  hidden: size of the feed-forward networks; None: four times the width.
    positions: `rotary` (Su et al. 2021, arXiv:2104.09864) or `learned`.
    tie: whether the output has the embedding (Press & Wolf 2017, arXiv:1608.05859).
    Raises ValueError for sequences of more than `max_length` tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 4,
        hidden: int | None = None,
        dropout: float = 0.0,
        positions: str = "rotary",
        tie: bool = True,
        weights: str | None = None,
    ):
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions} is none of {', '.join(POSITIONS)}")
        self.max_length = max_length
        self.embedding = small_embedding(vocab_size, width)
        self.positions = small_embedding(max_length, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, hidden or 4 * width, dropout, rotary=positions == "rotary")
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "feed_forward.2.weight")):  # sums of 2 x layers shortcuts keep their size
                nn.init.normal_(parameter, std=(2 * layers * parameter.shape[1]) ** -0.5)
        if tie:
            self.output.weight = self.embedding.weight
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.run(inputs["input_ids"], inputs.get("position_ids"))[0]

    def run(
        self, tokens: Tensor, positions: Tensor | None = None, past: list[Any] | None = None
    ) -> tuple[Tensor, list[Any]]:
        """The logits, and the keys and values of all tokens so far.  past: those of the tokens before."""
        begin = past[0][0].shape[2] if past else 0
        end = begin + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"a text of {end} tokens; the model has {self.max_length} positions")
        mask = None if positions is None else document_mask(positions)
        places = torch.arange(begin, end, device=tokens.device) if positions is None else positions
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(places)
        x, present = self.dropout(x), []
        for block, before in zip(self.blocks, past or [None] * len(self.blocks), strict=True):
            x, keys_values, _ = block(x, mask, is_causal=mask is None and not begin, positions=places, past=before)
            present.append(keys_values)
        return self.output(self.norm(x)), present

    def start(self, inputs: Inputs) -> dict[str, Any]:
        tokens = inputs["input_ids"]
        return {"past": self.run(tokens)[1] if tokens.shape[1] else None}

    def advance(self, tokens: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        logits, present = self.run(tokens[:, None], past=state["past"])
        return logits[:, 0], {"past": present}


def document_mask(positions: Tensor) -> Tensor:
    """(B, 1, T, T), true where a token may see another: of its own document, not after it.  positions: (B, T)."""
    documents = (positions == 0).cumsum(1)
    same = documents[:, :, None] == documents[:, None]
    return (same & torch.ones_like(same).tril())[:, None]
