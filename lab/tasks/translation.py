"""Translation of sentences, or of any sequence of tokens into another."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from lab.metrics.scores import Evaluation, Picture
from lab.metrics.tokens import IGNORED, TokenCounts
from lab.metrics.translation import score_translations
from lab.models.decoding import beam_search
from lab.pictures import draw_attention

SAMPLES = 8  # translations that are shown

Translator = Callable[[Any], Tensor]
TranslationBatch = tuple[dict[str, Tensor], Tensor, Tensor]


class TranslationData(Protocol):
    """What the task takes from its data set.

    first, last, pad: special tokens of the target.  sentences: source and reference of those that are translated.
    """

    source_tokenizer: Any
    target_tokenizer: Any
    first: int
    last: int
    pad: int
    sentences: Sequence[tuple[str, str]]


class Translation:
    """Batches are those of `lab.data.parallel_text.ParallelText`. The model takes their inputs and
    `decoder_input_ids` (B, T), the tokens before each label, and gives logits (B, T, V).

    label_smoothing: share of each label that is spread evenly over the vocabulary, without the padding token (Szegedy
        et al. 2016, arXiv:1512.00567, sec. 7).
    beam: number of hypotheses in decoding; 1 is greedy.  length_penalty: as `lab.models.decoding.beam_search`.
    max_ratio: a translation has at most this many tokens for each of its source, and 10 more.
    """

    def __init__(
        self, label_smoothing: float = 0.1, beam: int = 4, length_penalty: float = 0.6, max_ratio: float = 2.0
    ):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
        if beam < 1 or max_ratio <= 0:
            raise ValueError(f"beam={beam} and max_ratio={max_ratio} are positive numbers")
        self.label_smoothing, self.beam = label_smoothing, beam
        self.length_penalty, self.max_ratio = length_penalty, max_ratio
        self.data: TranslationData | None = None

    def bind(self, data: Any) -> None:
        """Take the tokenizers and the reference translations from the data set."""
        if not hasattr(data, "target_tokenizer"):
            raise ValueError(f"{type(data).__name__} has no target_tokenizer; data=parallel_text and multi30k have one")
        self.data = data

    @property
    def bound(self) -> TranslationData:
        if self.data is None:
            raise ValueError("the task has no data set to take its tokenizers from; call task.bind(data)")
        return self.data

    def loss(self, model: Translator, batch: TranslationBatch) -> Tensor:
        """The mean cross-entropy of a token in nats, the last token of a sentence included, a scalar."""
        inputs, labels, _ = batch
        logits = model(self.with_prefix(inputs, labels))
        return smoothed_cross_entropy(logits, labels, self.label_smoothing, self.bound.pad)

    def size(self, batch: TranslationBatch) -> Tensor:
        """The number of target tokens, which the loss is a mean over."""
        return (batch[1] != IGNORED).sum()

    def score(self, model: Translator, batches: Iterable[TranslationBatch]) -> Evaluation:
        """bleu and chrf of the sentences that are to be translated, and cross_entropy (without label smoothing),
        perplexity and token_accuracy of all target tokens."""
        counts, rows = TokenCounts(), []
        picture: dict[str, Picture] = {}
        for batch in batches:
            inputs, labels, sentences = batch
            counts.add(model(self.with_prefix(inputs, labels)), labels)
            chosen = sentences >= 0
            if chosen.any():
                part = {name: tensor[chosen] for name, tensor in inputs.items()}
                rows += zip(sentences[chosen].tolist(), self.translate(model, part), strict=True)
                picture = picture or self.attention_picture(model, part, labels[chosen])
        if not rows:
            return Evaluation(counts.scores())
        return self.compare(rows, counts.scores(), picture)

    def compare(
        self, rows: Sequence[tuple[int, str]], token_scores: Mapping[str, float], picture: Mapping[str, Picture]
    ) -> Evaluation:
        """The scores of translations, with their files and samples.  rows: (place of the sentence, translation)."""
        rows = sorted(rows)
        pairs = [self.bound.sentences[place] for place, _ in rows]
        scores, signatures = score_translations([text for _, text in rows], [reference for _, reference in pairs])
        lines = [
            json.dumps({"source": source, "reference": reference, "translation": text}, ensure_ascii=False)
            for (source, reference), (_, text) in zip(pairs, rows, strict=True)
        ]
        samples = list(zip(pairs, rows, strict=True))[:: max(1, len(rows) // SAMPLES)][:SAMPLES]
        table = "".join(
            f"| {' | '.join(text.replace('|', ' ') for text in (source, reference, translation))} |\n"
            for (source, reference), (_, translation) in samples
        )
        return Evaluation(
            {**scores, **token_scores},
            directions={"chrf": "max"},
            pictures=picture,
            signatures=signatures,
            texts={"translations": f"| source | reference | translation |\n|---|---|---|\n{table}"},
            files={"translations.jsonl": "".join(f"{line}\n" for line in lines).encode()},
        )

    def translate(self, model: Translator, inputs: Mapping[str, Tensor]) -> list[str]:
        """The translation of each sentence.  inputs: as in a batch."""
        data, source = self.bound, inputs["attention_mask"].sum(1)
        limits = (source * self.max_ratio).long() + 10
        found = beam_search(
            model,
            inputs,
            limits,
            first=data.first,
            last=data.last,
            width=self.beam,
            length_penalty=self.length_penalty,
        )
        return [text.strip() for text in data.target_tokenizer.decode_batch(found)]

    def predict(self, model: Translator, inputs: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """`translation` of each text.  inputs: as in a batch."""
        return [{"translation": text} for text in self.translate(model, inputs)]

    def attention_picture(self, model: Any, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Picture]:
        """The attention of the first sentence; empty for a model that does not tell it."""
        if not hasattr(model, "attention_weights"):
            return {}
        one = {name: tensor[:1] for name, tensor in inputs.items()}
        weights = model.attention_weights(self.with_prefix(one, labels[:1]))[0]
        source = one["input_ids"][0][one["attention_mask"][0]].tolist()
        target = labels[0][labels[0] != IGNORED].tolist()
        rows = weights[: len(target), : len(source)].float().cpu().tolist()
        data = self.bound
        names = [
            [tokenizer.decode([token], skip_special_tokens=False).strip() for token in tokens]
            for tokenizer, tokens in ((data.target_tokenizer, target), (data.source_tokenizer, source))
        ]
        return {"attention": partial(draw_attention, rows, *names)}

    def with_prefix(self, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The model's inputs: those of the batch, and the tokens before each label."""
        before = torch.cat([torch.full_like(labels[:, :1], self.bound.first), labels[:, :-1]], 1)
        return {**inputs, "decoder_input_ids": before.masked_fill(before == IGNORED, self.bound.pad)}


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, pad: int) -> Tensor:
    """(1 - s) (-log p of the label) + s (the mean of -log p over the vocabulary without `pad`), the mean over the
    labels that are not -100, a scalar.  logits: (..., V).  labels: (...)."""
    if not smoothing:
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
    is_label = labels != IGNORED
    logp = logits[is_label].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    own = logp.gather(1, labels[is_label][:, None])[:, 0]
    others = (logp.sum(1) - logp[:, pad]) / (logp.shape[1] - 1)
    return -((1 - smoothing) * own + smoothing * others).mean()
