"""Sentences in two languages: line n of one file is the translation of line n of the other."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.data.order import split_indices
from lab.data.readers import TranslationReader
from lab.data.sequences import GroupedByLength, Sequences
from lab.data.text_table import read_lines
from lab.data.tokenize import FIRST, LAST, make_tokenizer, pad_id, token_id, tokenize
from lab.metrics.tokens import IGNORED

TranslationBatch = tuple[dict[str, Tensor], Tensor, Tensor]


class Pairs(NamedTuple):
    """Sentences and their translations."""

    sources: list[str]
    targets: list[str]

    def take(self, indices: Tensor) -> "Pairs":
        chosen = indices.tolist()
        return Pairs([self.sources[place] for place in chosen], [self.targets[place] for place in chosen])


class EncodedPairs(NamedTuple):
    """sources, targets: each with its last token; the targets without their first.
    sentences: (N,) for each pair the place of its text in `ParallelText.sentences`; -1 for one that is not translated
        when the split is scored."""

    sources: Sequences
    targets: Sequences
    sentences: Tensor


class ParallelText(GroupedByLength):
    """Pairs of sentences, batched by position.

    A batch is ({"input_ids": (B, S) int64, "attention_mask": (B, S) bool}, labels (B, T) int64 with -100 on the
    padding, sentences (B,) int64: the places in `sentences` of those that scoring translates, -1 for the others).
    source_tokenizer, target_tokenizer: `tokenizers.Tokenizer`s.  first, last, pad: special tokens of the target.
    sentences: source and reference of each sentence that may be translated.
    """

    def __init__(
        self,
        splits: Mapping[str, EncodedPairs],
        sentences: Sequence[tuple[str, str]],
        reader: TranslationReader,
        *,
        batch_size: int,
        seed: int,
        group_by_length: bool = True,
        description: str = "",
    ):
        self.splits, self.sentences = dict(splits), sentences
        super().__init__(
            {name: len(split.sentences) for name, split in splits.items()}, batch_size, seed, group_by_length
        )
        self.source_tokenizer, self.target_tokenizer = reader.source_tokenizer, reader.target_tokenizer
        self.first, self.last, self.pad = reader.first, reader.last, reader.pad
        self.reader, self.description = reader, description

    def to(self, device: str) -> None:
        """Move all sequences to `device`, so that no batch has to be transferred."""
        self.splits = {
            name: EncodedPairs(split.sources.to(device), split.targets.to(device), split.sentences.to(device))
            for name, split in self.splits.items()
        }

    def sort_keys(self, split: str) -> Tensor:
        sources, targets, _ = self.splits[split]
        return (targets.lengths * 2**20 + sources.lengths).cpu()

    def take(self, split: str, indices: Tensor) -> TranslationBatch:
        sources, targets, sentences = self.splits[split]
        ids, mask = sources.take(indices, pad_id(self.source_tokenizer))
        labels, is_label = targets.take(indices, 0)
        labels = labels.masked_fill(~is_label, IGNORED)
        return {"input_ids": ids, "attention_mask": mask}, labels, sentences[indices.to(sentences.device)]


def parallel_text(
    batch_size: int,
    seed: int,
    *,
    source_file: str,
    target_file: str,
    val_source_file: str | None = None,
    val_target_file: str | None = None,
    test_source_file: str | None = None,
    test_target_file: str | None = None,
    val_share: float = 0.05,
    test_share: float = 0.05,
    train_examples: int | None = None,
    translate_val: int | None = 200,
    tokenizer: str = "byte_bpe",
    target_tokenizer: str | None = None,
    joint: bool = True,
    vocab_size: int = 8000,
    target_vocab_size: int = 8000,
    max_length: int = 128,
    lowercase: bool = False,
    bos: str = FIRST,
    eos: str = LAST,
    group_by_length: bool = True,
    download: bool = False,
) -> ParallelText:
    """Translation pairs from text files, plain or gzip (`.gz`), a sentence a line.

    Without validation files, `val_share` of the training pairs are drawn from the seed; without test files,
    `test_share` of them, the same for every seed. Pairs of which a side is empty are left out of the training pairs.
    translate_val: number of validation sentences that are translated whenever the model is scored, evenly spaced; null:
        all. All of the test's are.
    tokenizer, vocab_size, lowercase: as `lab.data.tokenize.make_tokenizer` takes them, of the training pairs alone.
    joint: whether both languages have one vocabulary. Else `target_tokenizer` (None: as `tokenizer`) and
        `target_vocab_size` are those of the target.
    max_length: tokens after which a sentence is cut.
    bos, eos: special tokens with which a target begins and ends.
    Raises ValueError with file and line for what cannot be read, and for files of different lengths.
    """
    given = {"val": (val_source_file, val_target_file), "test": (test_source_file, test_target_file)}
    splits = split_pairs(read_pairs(source_file, target_file), given, {"val": val_share, "test": test_share}, seed)
    if train_examples is not None:
        splits["train"] = splits["train"].take(torch.arange(min(train_examples, len(splits["train"].sources))))
    languages = (tokenizer, vocab_size), (target_tokenizer or tokenizer, target_vocab_size)
    source_tokens, target_tokens = make_tokenizers(splits["train"], languages, joint, lowercase, download)
    first, last = (token_id(target_tokens, token, key) for token, key in ((bos, "bos"), (eos, "eos")))
    reader = TranslationReader(source_tokens, target_tokens, first, last, max_length)
    near = Path(source_file).parent
    counts = {"train": 0, "val": translate_val, "test": None}
    begins = {"train": 0, "val": 0, "test": len(splits["val"].sources)}
    encoded = {name: encode_pairs(reader, splits[name], near, begins[name], counts[name]) for name in splits}
    return ParallelText(
        encoded,
        [pair for name in ("val", "test") for pair in zip(*splits[name], strict=True)],
        reader,
        batch_size=batch_size,
        seed=seed,
        group_by_length=group_by_length,
        description=describe_pairs(encoded, target_tokens.get_vocab_size(), max_length),
    )


def make_tokenizers(
    train: Pairs, languages: Sequence[tuple[str, int]], joint: bool, lowercase: bool, download: bool
) -> tuple[Any, Any]:
    """The tokenizers of source and target.  languages: kind and size of each vocabulary; of a joint one, the first."""
    texts = [[*train.sources, *train.targets]] if joint else train
    made = [
        make_tokenizer(kind, part, size, lowercase, download)
        for part, (kind, size) in zip(texts, languages, strict=False)
    ]
    return made[0], made[-1]


def split_pairs(
    train: Pairs, given: Mapping[str, tuple[str | None, str | None]], shares: Mapping[str, float], seed: int
) -> dict[str, Pairs]:
    """The pairs of each split; those of a split without files are drawn from the training pairs.

    given: the files of a split.  shares: share of the training pairs to draw.
    """
    splits: dict[str, Pairs] = {}
    for name, split_seed in (("test", 0), ("val", seed)):
        source, target = given[name]
        if bool(source) != bool(target):
            raise ValueError(f"data.{name}_source_file and data.{name}_target_file go together; give both or neither")
        if source and target:
            splits[name] = read_pairs(source, target)
        else:
            kept, drawn = split_indices(len(train.sources), shares[name], split_seed)
            train, splits[name] = train.take(kept), train.take(drawn)
    whole = [place for place, pair in enumerate(zip(*train, strict=True)) if all(pair)]
    return {"train": train.take(torch.tensor(whole, dtype=torch.int64)), **splits}


def encode_pairs(reader: TranslationReader, pairs: Pairs, near: Path, begin: int, chosen: int | None) -> EncodedPairs:
    """begin, chosen: as `number_sentences` takes them."""
    length, last = reader.max_length, [reader.last]
    targets = tokenize(reader.target_tokenizer, pairs.targets, near, max_length=length - 1, special=False, after=last)
    return EncodedPairs(
        tokenize(reader.source_tokenizer, pairs.sources, near, max_length=length),
        targets,
        number_sentences(len(pairs.sources), begin, chosen),
    )


def read_pairs(source_file: str, target_file: str) -> Pairs:
    """Raises ValueError for files without lines, and for files of different numbers of lines."""
    sources, targets = (list(read_sentences(Path(file))) for file in (source_file, target_file))
    if len(sources) != len(targets):
        shorter, longer = sorted(((len(sources), source_file), (len(targets), target_file)))
        raise ValueError(
            f"{shorter[1]} has {shorter[0]:,} lines and {longer[1]} {longer[0]:,}: line {shorter[0] + 1} of the second "
            "has no translation"
        )
    if not sources:
        raise ValueError(f"{source_file} is empty")
    return Pairs(sources, targets)


def read_sentences(path: Path) -> Iterator[str]:
    """The lines of a text file, or a gzip of one, without the white space around them."""
    for line in read_lines(path):
        yield line.strip()


def number_sentences(count: int, begin: int, chosen: int | None) -> Tensor:
    """Numbers from `begin`, and -1 except for `chosen` evenly spaced ones; None: all are chosen."""
    numbers = torch.arange(begin, begin + count)
    if chosen is None or chosen >= count:
        return numbers
    kept = torch.zeros(count, dtype=torch.bool)
    kept[torch.linspace(0, count - 1, chosen).round().long()] = True
    return numbers.masked_fill(~kept, -1)


def describe_pairs(splits: Mapping[str, EncodedPairs], vocab_size: int, max_length: int) -> str:
    """What is shown when a run starts."""
    counts = ", ".join(f"{len(splits[name].sentences):,}" for name in ("train", "val", "test"))
    cut = sum(int((sequences.lengths >= max_length).sum()) for split in splits.values() for sequences in split[:2])
    return (
        f"pairs for training, validation and test: {counts}; {vocab_size:,} tokens in the target's vocabulary; {cut} "
        f"sentences are cut at {max_length} tokens"
    )
