"""Scores of predicted tokens, from sums that stay on the device until the end of the split."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # label of a token that does not count, as torch's cross_entropy has it


class TokenCounts:
    """Running sums over batches of logits (B, T, V) and labels (B, T), -100 where a token does not count."""

    def __init__(self) -> None:
        self.cross_entropy: Tensor | float = 0.0
        self.hits: Tensor | int = 0
        self.tokens: Tensor | int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        is_label = labels != IGNORED
        chosen, wanted = logits[is_label].float(), labels[is_label]
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        self.cross_entropy = self.cross_entropy + F.cross_entropy(chosen, wanted, reduction="none").to(exact).sum()
        self.hits = self.hits + (chosen.argmax(1) == wanted).sum()
        self.tokens = self.tokens + is_label.sum()

    def scores(self) -> dict[str, float]:
        """cross_entropy of a token in nats, perplexity, its exponential, and token_accuracy. Empty without tokens."""
        tokens = int(self.tokens)
        if not tokens:
            return {}
        cross_entropy = float(torch.as_tensor(self.cross_entropy).detach()) / tokens
        perplexity = math.exp(min(cross_entropy, 700.0))
        return {
            "cross_entropy": cross_entropy,
            "perplexity": perplexity,
            "token_accuracy": int(self.hits) / tokens,
        }
