"""Documents of tokens, packed into blocks of one length."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab.data import order
from lab.data.readers import PromptReader
from lab.data.sequences import Sequences
from lab.metrics.tokens import IGNORED

PACKINGS = ("best_fit", "concat")


class Documents(NamedTuple):
    """sequences: the tokens of each document.  learned: (T,) bool, tokens whose prediction counts; None: all."""

    sequences: Sequences
    learned: Tensor | None = None


class Blocks(NamedTuple):
    """tokens, positions: (N, L) int32; a position of 0 begins a document.  learned: (N, L) bool, tokens whose
    prediction counts; false on the padding."""

    tokens: Tensor
    positions: Tensor
    learned: Tensor


def pack(documents: Documents, length: int, packing: str, pad: int) -> Blocks:
    """Blocks of `length` tokens.

    packing: `best_fit`, each document whole in the fullest block that has room for it, the longest first (best-fit
        decreasing; Ding et al. 2024, arXiv:2404.10830), the rest padding; a longer document is cut into pieces.
        `concat`, all documents one after the other as one text, cut where a block is full; the rest is dropped.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing={packing} is none of {', '.join(PACKINGS)}")
    every = documents.sequences.tokens.numpy()
    learned = np.ones(len(every), bool) if documents.learned is None else documents.learned.numpy()
    if packing == "concat":
        count = len(every) // length
        tokens, counted = (part[: count * length].reshape(count, length) for part in (every, learned))
        return as_blocks(tokens, counted, np.tile(np.arange(length, dtype=np.int32), (count, 1)))
    borders = documents.sequences.starts.tolist()
    pieces = [
        (start, min(start + length, end)) for begin, end in pairwise(borders) for start in range(begin, end, length)
    ]
    bins = best_fit([end - start for start, end in pieces], length)
    tokens, counted = np.full((len(bins), length), pad, np.int32), np.zeros((len(bins), length), bool)
    positions = np.zeros((len(bins), length), np.int32)
    for row, members in enumerate(bins):
        begin = 0
        for member in members:
            piece = slice(*pieces[member])
            place = slice(begin, begin + piece.stop - piece.start)
            tokens[row, place], counted[row, place] = every[piece], learned[piece]
            positions[row, place] = np.arange(piece.stop - piece.start)
            begin = place.stop
        positions[row, begin:] = np.arange(length - begin)
    return as_blocks(tokens, counted, positions)


def as_blocks(tokens: np.ndarray, learned: np.ndarray, positions: np.ndarray) -> Blocks:
    return Blocks(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (tokens, positions, learned)))


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The members of each bin, by best-fit decreasing. No length is above the capacity."""
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by the room that they have left
    rooms = 0  # bit r is set where a bin has room for exactly r
    for member in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        enough = rooms >> lengths[member]
        if enough:
            room = lengths[member] + (enough & -enough).bit_length() - 1
            place = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, place = capacity, len(bins)
            bins.append([])
        bins[place].append(member)
        left = room - lengths[member]
        by_room[left].append(place)
        rooms |= 1 << left
    return bins


class PackedText:
    """Training, validation and test blocks, batched by position.

    A batch is {"input_ids", "position_ids", "labels"}, each (B, L) int64: the label of a token is the one that
    follows it in its document, or -100 where none does or it does not count. Without `position_ids` a block is one
    document.
    tokenizer: a `tokenizers.Tokenizer`.  bos, eos: the tokens that begin and end a document, or None.
    token_bytes: (V,) number of bytes that each token stands for; None where that is unknown.
    """

    def __init__(
        self,
        splits: dict[str, Blocks],
        tokenizer: Any,
        *,
        batch_size: int,
        seed: int,
        bos: int | None,
        eos: int | None,
        token_bytes: Tensor | None = None,
        description: str = "",
    ):
        if not len(splits["train"].tokens):
            raise ValueError("the training text does not fill a block; give a smaller data.max_length")
        self.splits, self.tokenizer, self.bos, self.eos, self.token_bytes = splits, tokenizer, bos, eos, token_bytes
        self.batch_size, self.seed, self.description = batch_size, seed, description
        self.val_examples = len(splits["val"].tokens)
        self.steps_per_epoch = order.count_steps(len(splits["train"].tokens), batch_size)
        self.has_documents = bool((splits["train"].positions[:, 1:] == 0).any())
        self.reader = PromptReader(tokenizer, bos, eos)

    def to(self, device: str) -> None:
        """Move all blocks to `device`, so that no batch has to be transferred."""
        self.splits = {name: Blocks(*(part.to(device) for part in split)) for name, split in self.splits.items()}

    def batches(self, after: int = 0) -> Iterator[dict[str, Tensor]]:
        tokens = self.splits["train"].tokens
        for indices in order.batch_indices(len(tokens), self.batch_size, self.seed, after, tokens.device):
            yield self.take("train", indices)

    def val(self) -> Iterator[dict[str, Tensor]]:
        return self.batches_in_order("val")

    def test(self) -> Iterator[dict[str, Tensor]]:
        return self.batches_in_order("test")

    def batches_in_order(self, split: str) -> Iterator[dict[str, Tensor]]:
        tokens = self.splits[split].tokens
        for indices in torch.arange(len(tokens), device=tokens.device).split(self.batch_size):
            if len(indices):
                yield self.take(split, indices)

    def take(self, split: str, indices: Tensor) -> dict[str, Tensor]:
        tokens, positions, learned = (part[indices] for part in self.splits[split])
        tokens, positions = tokens.long(), positions.long()
        is_label = learned[:, 1:] & (positions[:, 1:] != 0)
        labels = torch.full_like(tokens, IGNORED)
        labels[:, :-1] = tokens[:, 1:].masked_fill(~is_label, IGNORED)
        documents = {"position_ids": positions} if self.has_documents else {}
        return {"input_ids": tokens, **documents, "labels": labels}


def describe_blocks(splits: dict[str, Blocks], pad_share: float, vocab_size: int) -> str:
    """What is shown when a run starts."""
    counts = ", ".join(f"{len(splits[name].tokens):,}" for name in ("train", "val", "test"))
    length = splits["train"].tokens.shape[1]
    return (
        f"blocks of {length} tokens for training, validation and test: {counts}; {pad_share:.1%} of the training "
        f"tokens are padding; {vocab_size:,} tokens in the vocabulary"
    )
