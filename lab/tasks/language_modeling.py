"""Language modelling: each token is predicted from those before it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.metrics.scores import Evaluation
from lab.metrics.tokens import IGNORED, TokenCounts
from lab.models.decoding import sample
from lab.seeding import make_generator

LanguageModel = Callable[[Any], Tensor]


class CorpusData(Protocol):
    """What the task takes from its data set.  bos, eos: tokens that begin and end a document, or None."""

    tokenizer: Any
    bos: int | None
    eos: int | None


class LanguageModeling:
    """Batches are those of `lab.data.packing.PackedText`: `labels` (B, T), -100 where none counts, and the model's
    inputs. The model gives logits (B, T, V).

    samples: number of texts that are drawn to look at whenever the model is scored.  sample_length: their tokens at
        most.
    prompts: how they begin, in turns.  temperature, top_p: as `lab.models.decoding.sample`.
    """

    def __init__(
        self,
        samples: int = 3,
        sample_length: int = 40,
        prompts: Sequence[str] = ("",),
        temperature: float = 0.8,
        top_p: float = 0.95,
    ):
        self.samples, self.sample_length, self.prompts = samples, sample_length, list(prompts) or [""]
        self.temperature, self.top_p = temperature, top_p
        self.data: CorpusData | None = None

    def bind(self, data: Any) -> None:
        """Take the tokenizer from the data set."""
        if not hasattr(data, "tokenizer"):
            raise ValueError(f"{type(data).__name__} has no tokenizer; data=text_corpus and data=chat have one")
        self.data = data

    def loss(self, model: LanguageModel, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean cross-entropy of a token that counts, in nats, a scalar."""
        inputs, labels = split_labels(batch)
        return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def size(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of tokens that the loss is a mean over."""
        return (batch["labels"] != IGNORED).sum()

    def score(self, model: LanguageModel, batches: Iterable[Mapping[str, Tensor]]) -> Evaluation:
        """cross_entropy of a token in nats, perplexity, token_accuracy; and bits_per_byte of the text where the
        vocabulary tells the bytes of a token."""
        counts, token_bytes = TokenCounts(), getattr(self.data, "token_bytes", None)
        num_bytes = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            inputs, labels = split_labels(batch)
            counts.add(model(inputs), labels)
            if token_bytes is not None:
                num_bytes += token_bytes[labels[labels != IGNORED].cpu()].double().sum()
        scores = counts.scores()
        if num_bytes > 0:
            scores["bits_per_byte"] = float(counts.cross_entropy) / math.log(2) / float(num_bytes)
        texts = {"samples": self.draw_samples(model)} if self.data is not None and self.samples and scores else {}
        return Evaluation(scores, directions={"bits_per_byte": "min"}, texts=texts)

    def draw_samples(self, model: LanguageModel) -> str:
        """Texts in Markdown, the same for the same weights."""
        drawn = []
        for number in range(self.samples):
            prompt = self.prompts[number % len(self.prompts)]
            text = self.continue_text(model, prompt, self.sample_length, seed=number)
            drawn.append(f"**{prompt}**{text}" if prompt else text)
        return "\n\n---\n\n".join(drawn)

    def continue_text(self, model: Any, prompt: str, limit: int, seed: int = 0) -> str:
        """A drawn continuation of the prompt, of at most `limit` tokens."""
        assert self.data is not None
        tokenizer, device = self.data.tokenizer, next(model.parameters()).device
        tokens = [] if self.data.bos is None else [self.data.bos]
        tokens += tokenizer.encode(prompt, add_special_tokens=False).ids
        if not tokens and self.data.eos is not None:
            tokens = [self.data.eos]  # a text begins where another ends
        if not tokens:
            raise ValueError("an empty prompt needs data.bos, a token with which a text begins")
        room = getattr(model, "max_length", None)
        if room is not None and len(tokens) >= room:
            raise ValueError(f"a prompt of {len(tokens)} tokens; the model has {room} positions")
        limit = limit if room is None else min(limit, room - len(tokens))
        ids = torch.tensor([tokens], device=device)
        (found,) = sample(
            model,
            {"input_ids": ids[:, :-1]},
            limit,
            first=ids[:, -1],
            last=self.data.eos,
            temperature=self.temperature,
            top_p=self.top_p,
            generator=make_generator(seed, "samples"),
        )
        return tokenizer.decode(found)

    def predict(self, model: LanguageModel, texts: Sequence[str]) -> list[dict[str, Any]]:
        """`continuation` of each text, of at most `sample_length` tokens; the same each time."""
        return [{"continuation": self.continue_text(model, text, self.sample_length)} for text in texts]


def split_labels(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The model's inputs, and the labels."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}, batch["labels"]
