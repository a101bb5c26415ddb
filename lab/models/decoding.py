"""Sequences out of models, token by token: greedy, by beam search, by sampling.

A model that decodes has two methods, next to its forward pass:
    start(inputs) -> state: what the next tokens depend on, such as an encoder's states; a nest of tensors whose first
        dimension is the sequences
    advance(tokens (B,), state) -> (logits (B, V) of the next token, state)
Any other model that takes `decoder_input_ids` beside its inputs decodes by passing the whole prefix each time.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from lab.nest import map_tensors


class Decoder(Protocol):
    def start(self, inputs: Any, /) -> Any: ...
    def advance(self, tokens: Tensor, state: Any, /) -> tuple[Tensor, Any]: ...


class PrefixDecoder:
    """Decodes with a model that has no `start` and `advance`: each token costs a pass over inputs and prefix."""

    def __init__(self, model: Callable[[Any], Tensor]):
        self.model = model

    def start(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first = next(iter(inputs.values()))
        return {**inputs, "decoder_input_ids": first.new_empty((len(first), 0), dtype=torch.int64)}

    def advance(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state = {**state, "decoder_input_ids": torch.cat([state["decoder_input_ids"], tokens[:, None]], 1)}
        return self.model(state)[:, -1], state


def as_decoder(model: Any) -> Decoder:
    return model if hasattr(model, "start") and hasattr(model, "advance") else PrefixDecoder(model)


def beam_search(
    model: Any,
    inputs: Any,
    limits: Tensor,
    *,
    first: int,
    last: int,
    width: int = 4,
    length_penalty: float = 0.6,
) -> list[list[int]]:
    """The best sequence found for each input, without its first and last token.

    inputs: what the model takes for B sequences.  limits: (B,) the greatest number of tokens of each, the last
    included; a sequence that reaches it is ended there, so that none depends on the others of its batch.
    first, last: tokens with which each sequence begins and ends.
    width: number of hypotheses that are kept; 1 is greedy.
    length_penalty: exponent a of a hypothesis' score, log p / ((5 + tokens) / 6)^a (Wu et al. 2016, arXiv:1609.08144,
    eq. 14). A sequence is done when it has `width` hypotheses that ended.
    """
    decoder, batch = as_decoder(model), len(limits)
    device = limits.device
    state = map_tensors(decoder.start(inputs), lambda tensor: tensor.repeat_interleave(width, 0))
    scores = torch.full((batch, width), -math.inf, device=device)
    scores[:, 0] = 0
    tokens = torch.full((batch, width, 1), first, device=device)
    best = torch.full((batch,), -math.inf, device=device)
    found: list[list[int]] = [[] for _ in range(batch)]
    ended = torch.zeros(batch, dtype=torch.int64, device=device)
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    for length in range(1, int(limits.max()) + 1):
        logits, state = decoder.advance(tokens[:, :, -1].flatten(), state)
        vocab = logits.shape[-1]
        logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).view(batch, width, vocab)
        scores = scores.to(logp.dtype)
        at_limit = limits == length
        is_last = torch.arange(vocab, device=device) == last
        logp = logp.masked_fill(at_limit[:, None, None] & ~is_last, -math.inf)
        top, places = (scores[:, :, None] + logp).flatten(1).topk(min(2 * width, width * vocab))
        beams, chosen = places // vocab, places % vocab
        ends = (chosen == last) & top.isfinite() & ~done[:, None]
        ends[:, width:] = False  # the better ones go on
        normalised = (top / ((5 + length) / 6) ** length_penalty).masked_fill(~ends, -math.inf).to(best.dtype)
        value, place = normalised.max(1)
        for row in (value > best).nonzero()[:, 0].tolist():
            found[row] = tokens[row, beams[row, place[row]], 1:].tolist()
        best = torch.maximum(best, value)
        ended += ends.sum(1)
        done |= (ended >= width) | at_limit
        if done.all():
            break
        scores, kept = top.masked_fill(chosen == last, -math.inf).topk(width)
        beams, chosen = beams.gather(1, kept), chosen.gather(1, kept)
        tokens = torch.cat([tokens.gather(1, beams[:, :, None].expand_as(tokens)), chosen[:, :, None]], 2)
        rows = (torch.arange(batch, device=device)[:, None] * width + beams).flatten()
        state = map_tensors(state, lambda tensor, rows=rows: tensor.index_select(0, rows))
    return found


def sample(
    model: Any,
    inputs: Any,
    limit: int,
    *,
    first: Tensor,
    last: int | None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """A sequence drawn for each input, of `limit` tokens at most, without its first and last token.

    first: (B,) tokens with which the sequences begin.  last: token that ends a sequence; None: none does.
    temperature: 0 takes the most probable token.  top_k, top_p: draw from the k most probable tokens, and from the most
    probable ones that have the probability p together (Holtzman et al. 2020, arXiv:1904.09751).
    """
    decoder = as_decoder(model)
    state, tokens = decoder.start(inputs), first
    drawn: list[Tensor] = []
    done = torch.zeros_like(first, dtype=torch.bool)
    for _ in range(limit):
        logits, state = decoder.advance(tokens, state)
        tokens = draw_tokens(logits.float(), temperature, top_k, top_p, generator)
        drawn.append(tokens)
        done |= tokens == last if last is not None else False
        if done.all():
            break
    rows = torch.stack(drawn, 1).tolist() if drawn else [[] for _ in first]
    return [row[: row.index(last)] if last in row else row for row in rows]


def draw_tokens(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """A token (B,) for each row of logits (B, V)."""
    if temperature == 0:
        return logits.argmax(-1)
    ordered, places = (logits / temperature).sort(descending=True)
    probabilities = ordered.softmax(-1)
    is_left_out = probabilities.cumsum(-1) - probabilities >= top_p  # the first is always kept
    if top_k is not None:
        is_left_out |= torch.arange(logits.shape[-1], device=logits.device) >= top_k
    probabilities = probabilities.masked_fill(is_left_out, 0)
    chosen = torch.multinomial(probabilities.cpu(), 1, generator=generator).to(logits.device)
    return places.gather(1, chosen)[:, 0]
