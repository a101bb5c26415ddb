"""Text classifiers on token ids: a bidirectional LSTM, a convolutional network, a Transformer encoder.

Each takes {"input_ids": (B, L) int64, "attention_mask": (B, L) bool} and gives logits (B, num_classes). Padding and the
other texts of a batch do not change a text's logits.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lab.models.weights import load_weights

Inputs = Mapping[str, Tensor]


def small_embedding(count: int, width: int) -> nn.Embedding:
    """An embedding with values of the size of a linear layer's: torch's own, of standard deviation 1, learns slowly."""
    embedding = nn.Embedding(count, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding


class LSTMClassifier(nn.Module):
    """A bidirectional LSTM, pooled by the maximum over the positions (Conneau et al. 2017, arXiv:1705.02364).

    width: size of the embeddings.  hidden: size of each direction's state.  dropout: on embeddings and pooled states.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        width: int = 128,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
        weights: str | None = None,
    ):
        super().__init__()
        self.embedding = small_embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True, dropout=between)
        self.head = nn.Linear(2 * hidden, num_classes)
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        mask = inputs["attention_mask"].bool()
        embedded = self.dropout(self.embedding(inputs["input_ids"]))
        packed = pack_padded_sequence(embedded, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
        pooled = states.masked_fill(~mask[:, :, None], -math.inf).amax(1)
        return self.head(self.dropout(pooled))


class TextCNN(nn.Module):
    """Convolutions of several widths over the embeddings, each pooled by its maximum (Kim 2014, arXiv:1408.5882).

    width: size of the embeddings.  channels: number of filters of each size.  sizes: numbers of tokens that a filter
    sees.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        width: int = 128,
        channels: int = 100,
        sizes: Sequence[int] = (3, 4, 5),
        dropout: float = 0.5,
        weights: str | None = None,
    ):
        super().__init__()
        self.embedding = small_embedding(vocab_size, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, size, padding=size - 1) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * len(sizes), num_classes)
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        mask = inputs["attention_mask"].bool()
        embedded = (self.embedding(inputs["input_ids"]) * mask[:, :, None]).transpose(1, 2)
        pooled = []
        for convolution in self.convolutions:
            found = convolution(embedded).relu()
            # the windows that see a token of the text; the others would see more padding in a longer batch
            windows = (
                torch.arange(found.shape[2], device=mask.device)
                < (mask.sum(1) + found.shape[2] - mask.shape[1])[:, None]
            )
            pooled.append(found.masked_fill(~windows[:, None], 0).amax(2))
        return self.head(self.dropout(torch.cat(pooled, 1)))


class TextTransformer(nn.Module):
    """A Transformer encoder (Vaswani et al. 2017, arXiv:1706.03762) with normalisation before each block and learned
    positions, pooled by the mean over the positions.

    Raises ValueError where `width` is not a multiple of `heads`, and in a forward pass for more than `max_length`
    tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        max_length: int,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.2,
        weights: str | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        self.embedding = small_embedding(vocab_size, width)
        self.positions = small_embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        if ids.shape[1] > self.positions.num_embeddings:
            raise ValueError(
                f"a text of {ids.shape[1]} tokens; the model has {self.positions.num_embeddings} positions"
            )
        positions = torch.arange(ids.shape[1], device=ids.device)
        embedded = self.dropout(self.embedding(ids) + self.positions(positions))
        states = self.encoder(embedded, src_key_padding_mask=~mask)
        weight = mask[:, :, None].to(states.dtype)
        return self.head((states * weight).sum(1) / weight.sum(1))
