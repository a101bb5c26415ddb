"""Sequence-to-sequence models on token ids: a recurrent network with attention, a Transformer.

Each takes {"input_ids": (B, S) int64, "attention_mask": (B, S) bool, "decoder_input_ids": (B, T) int64} and gives
logits (B, T, target_vocab_size), at t for the token that follows `decoder_input_ids` up to t. They also decode token
by token (`lab.models.decoding`). Padding and the other sequences of a batch do not change a sequence's logits.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lab.models.attention import TransformerBlock, key_mask, sinusoids
from lab.models.text import small_embedding
from lab.models.weights import load_weights

Inputs = Mapping[str, Tensor]
State = dict[str, Any]
CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
ATTENTIONS = ("bahdanau", "luong")


class RecurrentSeq2Seq(nn.Module):
    """A bidirectional recurrent encoder, and a recurrent decoder that attends to its states.

    cell: `gru` or `lstm`.
    attention: `luong`, general score, after the cell (Luong et al. 2015, arXiv:1508.04025, eq. 8, without input
        feeding), which decodes a whole sequence at once in training; or `bahdanau`, additive score, before the cell
        (Bahdanau et al. 2015, arXiv:1409.0473, appendix A.1.2), which takes it token by token.
    width: size of the embeddings.  hidden: size of the decoder's state, and of each of the encoder's.
    shared_vocabulary: whether source and target have one embedding.  The embedding of the target is also the output's.
    """

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int,
        width: int = 256,
        hidden: int = 256,
        cell: str = "gru",
        attention: str = "luong",
        layers: int = 1,
        dropout: float = 0.3,
        shared_vocabulary: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        if cell not in CELLS or attention not in ATTENTIONS:
            raise ValueError(f"cell={cell} is gru or lstm, attention={attention} is {' or '.join(ATTENTIONS)}")
        self.is_additive, between = attention == "bahdanau", dropout if layers > 1 else 0.0
        self.embedding, self.target_embedding = make_embeddings(vocab_size, target_vocab_size, width, shared_vocabulary)
        self.dropout = nn.Dropout(dropout)
        make = CELLS[cell]
        self.encoder = make(width, hidden, layers, batch_first=True, bidirectional=True, dropout=between)
        self.bridge = nn.Linear(2 * hidden, layers * hidden)
        self.decoder = make(
            width + (2 * hidden if self.is_additive else 0), hidden, layers, batch_first=True, dropout=between
        )
        self.keys = nn.Linear(2 * hidden, hidden, bias=False)
        self.query = nn.Linear(hidden, hidden) if self.is_additive else None
        self.score = nn.Linear(hidden, 1, bias=False) if self.is_additive else None
        self.readout = nn.Linear(3 * hidden, width)
        self.output = nn.Linear(width, target_vocab_size)
        nn.init.zeros_(self.output.bias)
        self.output.weight = self.target_embedding.weight
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.decode(inputs)[0]

    def attention_weights(self, inputs: Inputs) -> Tensor:
        """How much each target position looks at each source position, (B, T, S)."""
        return self.decode(inputs)[1]

    def decode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The logits (B, T, V), and the attention weights (B, T, S)."""
        state = self.encode(inputs)
        embedded = self.dropout(self.target_embedding(inputs["decoder_input_ids"]))
        if not self.is_additive:
            states, weights, _ = self.run(embedded, state)
            return self.logits(*states), weights
        steps = []
        for place in range(embedded.shape[1]):
            step = self.run(embedded[:, place : place + 1], state)
            steps.append(step[:2])
            state = step[2]
        states = [torch.cat([step[0][part] for step in steps], 1) for part in range(2)]
        return self.logits(*states), torch.cat([weights for _, weights in steps], 1)

    def start(self, inputs: Inputs) -> State:
        return self.encode(inputs)

    def encode(self, inputs: Inputs) -> State:
        """The encoder's states, and what the decoder begins with."""
        mask = inputs["attention_mask"].bool()
        embedded = self.dropout(self.embedding(inputs["input_ids"]))
        packed = pack_padded_sequence(embedded, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        encoded, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(encoded, batch_first=True, total_length=mask.shape[1])
        final = last[0] if isinstance(last, tuple) else last  # (layers x 2, B, hidden)
        begin = torch.tanh(self.bridge(torch.cat([final[-2], final[-1]], -1)))
        hidden = begin.view(len(begin), self.decoder.num_layers, -1)
        state = {"memory": memory, "keys": self.keys(memory), "mask": mask, "hidden": hidden}
        return state | {"cell": torch.zeros_like(hidden)} if isinstance(last, tuple) else state

    def advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        states, _, state = self.run(self.target_embedding(tokens[:, None]), state)
        return self.logits(*states)[:, 0], state

    def run(self, embedded: Tensor, state: State) -> tuple[tuple[Tensor, Tensor], Tensor, State]:
        """The decoder's states and contexts of these tokens, the attention weights, and the state after them.

        embedded: (B, T, width); T is 1 for the additive score.
        """
        hidden = state["hidden"].transpose(0, 1).contiguous()
        before: Any = (hidden, state["cell"].transpose(0, 1).contiguous()) if "cell" in state else hidden
        if self.is_additive:
            query = hidden[-1][:, None]  # the state before the token
            context, weights = self.attend(query, state)
            outputs, after = self.decoder(torch.cat([embedded, context], -1), before)
        else:
            outputs, after = self.decoder(embedded, before)
            context, weights = self.attend(outputs, state)
        parts = dict(zip(("hidden", "cell"), after if isinstance(after, tuple) else (after,), strict=False))
        return (outputs, context), weights, {**state, **{name: part.transpose(0, 1) for name, part in parts.items()}}

    def attend(self, query: Tensor, state: State) -> tuple[Tensor, Tensor]:
        if self.query is not None and self.score is not None:
            mixed = torch.tanh(self.query(query)[:, :, None] + state["keys"][:, None])  # (B, T, S, hidden)
            scores = self.score(mixed)[..., 0]
        else:
            scores = query @ state["keys"].transpose(1, 2)
        weights = scores.masked_fill(~state["mask"][:, None], -math.inf).softmax(-1)
        return weights @ state["memory"], weights

    def logits(self, outputs: Tensor, context: Tensor) -> Tensor:
        read = torch.tanh(self.readout(torch.cat([outputs, context], -1)))
        return self.output(self.dropout(read))


class TransformerSeq2Seq(nn.Module):
    """The Transformer (Vaswani et al. 2017, arXiv:1706.03762), with sinusoidal positions.

    hidden: size of the feed-forward networks.  layers: of the encoder, and of the decoder.
    norm_first: normalise before each part (Xiong et al. 2020, arXiv:2002.04745), or after it as in the paper.
    tie: whether the output has the embedding of the target (Press & Wolf 2017, arXiv:1608.05859).
    shared_vocabulary: whether source and target have one embedding.
    """

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        hidden: int = 1024,
        dropout: float = 0.1,
        norm_first: bool = True,
        tie: bool = True,
        shared_vocabulary: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        self.width, self.scale = width, math.sqrt(width)
        self.embedding, self.target_embedding = make_embeddings(vocab_size, target_vocab_size, width, shared_vocabulary)
        self.dropout = nn.Dropout(dropout)

        def stack(crosses: bool) -> nn.ModuleList:
            return nn.ModuleList(
                TransformerBlock(width, heads, hidden, dropout, crosses=crosses, norm_first=norm_first)
                for _ in range(layers)
            )

        self.encoder, self.decoder = stack(crosses=False), stack(crosses=True)
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(width) if norm_first else nn.Identity() for _ in range(2))
        self.output = nn.Linear(width, target_vocab_size, bias=False)
        nn.init.normal_(self.output.weight, std=width**-0.5)
        if tie:
            self.output.weight = self.target_embedding.weight
        if weights:
            load_weights(self, weights)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.decode(inputs, self.encode(inputs))

    def encode(self, inputs: Inputs) -> Tensor:
        """The encoder's states, (B, S, width)."""
        mask = key_mask(inputs)
        x = self.embed(self.embedding, inputs["input_ids"], 0)
        for block in self.encoder:
            x, *_ = block(x, mask)
        return self.encoder_norm(x)

    def decode(self, inputs: Inputs, memory: Tensor) -> Tensor:
        x = self.embed(self.target_embedding, inputs["decoder_input_ids"], 0)
        for block in self.decoder:
            x, *_ = block(x, is_causal=True, memory=memory, memory_mask=key_mask(inputs))
        return self.output(self.decoder_norm(x))

    def start(self, inputs: Inputs) -> State:
        return {"memory": [self.encode(inputs)] * len(self.decoder), "mask": key_mask(inputs), "past": None}

    def advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        past: list[Any] = state["past"] or [None] * len(self.decoder)
        x = self.embed(self.target_embedding, tokens[:, None], past[0][0].shape[2] if state["past"] else 0)
        present, memories = [], []
        for block, memory, before in zip(self.decoder, state["memory"], past, strict=True):
            x, keys_values, memory = block(x, memory=memory, memory_mask=state["mask"], past=before)
            present.append(keys_values)
            memories.append(memory)
        return self.output(self.decoder_norm(x))[:, 0], {**state, "past": present, "memory": memories}

    def attention_weights(self, inputs: Inputs) -> Tensor:
        """How much each target position looks at each source position in the last block, (B, T, S), the mean over the
        heads."""
        memory, seen = self.encode(inputs), list[Tensor]()
        last = cast(TransformerBlock, self.decoder[-1]).cross
        assert last is not None
        hook = last.register_forward_pre_hook(
            lambda module, arguments: seen.append(last.weights(arguments[0], arguments[1][0], key_mask(inputs)))
        )
        try:
            self.decode(inputs, memory)
        finally:
            hook.remove()
        return seen[0]

    def embed(self, embedding: nn.Embedding, tokens: Tensor, start: int) -> Tensor:
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        embedded = embedding(tokens) * self.scale
        return self.dropout(embedded + sinusoids(positions, self.width).to(embedded.dtype))


def make_embeddings(source: int, target: int, width: int, shared: bool) -> tuple[nn.Embedding, nn.Embedding]:
    """The embeddings of source and target; one and the same if they share their vocabulary. Raises ValueError where
    shared vocabularies differ in size."""
    if shared and source != target:
        raise ValueError(f"shared_vocabulary: the vocabularies have {source} and {target} tokens")
    embedding = small_embedding(source, width)
    return embedding, embedding if shared else small_embedding(target, width)
