"""Texts with labels, from a table of one's own."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lab.data.order import balanced_indices, split_indices
from lab.data.sequences import LabelledSequences, PaddedSequences, join_sequences
from lab.data.text_table import Column, read_rows
from lab.data.tokenize import encode_texts, make_tokenizer, pad_id
from lab.text import join_names


class TextRows(NamedTuple):
    """texts, pairs: first and second text of each row; pairs is None where there is one text.  labels: numbers of the
    classes."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int]

    def take(self, indices: torch.Tensor) -> "TextRows":
        chosen = indices.tolist()
        pairs = [self.pairs[place] for place in chosen] if self.pairs is not None else None
        return TextRows([self.texts[place] for place in chosen], pairs, [self.labels[place] for place in chosen])


def text_csv(
    batch_size: int,
    seed: int,
    *,
    train_file: str,
    val_file: str | None = None,
    test_file: str | None = None,
    text: Column = "text",
    second_text: Column | None = None,
    label: Column = "label",
    header: bool = True,
    num_classes: int,
    classes: Sequence[str] | None = None,
    val_share: float = 0.1,
    test_share: float = 0.0,
    train_examples: int | None = None,
    tokenizer: str = "bpe",
    vocab_size: int = 8000,
    max_length: int = 128,
    lowercase: bool = True,
    group_by_length: bool = True,
) -> PaddedSequences:
    """Texts as token ids, in padded batches (`lab.data.sequences.PaddedSequences`).

    train_file, val_file, test_file: CSV, TSV or JSON lines (`lab.data.text_table.read_rows`). Without a val_file,
    `val_share` of the training rows are drawn from the seed; without a test_file, `test_share` of them, the same for
    every seed.
    text, second_text, label: columns, by name, or by place in a table without a header.
    num_classes: number of classes.  classes: their names in the order of their numbers; None: the labels that the
    training file has, sorted, numbers by size.
    train_examples: number of training rows, balanced over the classes; None: all.
    tokenizer, vocab_size, lowercase: as `lab.data.tokenize.make_tokenizer` takes them; the vocabulary is that of the
    training rows alone.  max_length: tokens after which a text is cut.
    Raises ValueError with file and line for rows that cannot be used.
    """
    names = class_names(train_file, classes, num_classes, label, header)
    columns = [text, *([second_text] if second_text is not None else []), label]
    read = partial(read_split, columns=columns, classes=names, header=header)
    train, val, test = split_rows(read, [train_file, val_file, test_file], val_share, test_share, seed)
    if train_examples is not None:
        train = train.take(balanced_indices(torch.tensor(train.labels), train_examples, seed))
    made = make_tokenizer(tokenizer, [*train.texts, *(train.pairs or [])], vocab_size, lowercase)
    if (size := made.get_vocab_size()) > vocab_size:
        raise ValueError(f"{tokenizer} has {size} tokens; give data.vocab_size={size}")
    splits = [encode_rows(made, rows, max_length) for rows in (train, val, test)]
    return PaddedSequences(
        *splits,
        batch_size=batch_size,
        seed=seed,
        pad=pad_id(made),
        group_by_length=group_by_length,
        classes=names,
        description=describe_texts(splits, size, max_length),
        files={"tokenizer.json": made.to_str().encode()},
    )


def class_names(
    train_file: str, classes: Sequence[str] | None, num_classes: int, label: Column, header: bool
) -> list[str]:
    """The names of the classes, from the training file where they are not given. Raises ValueError for another number
    of them than `num_classes`."""
    names = list(classes) if classes else find_classes(Path(train_file), label, header)
    if len(names) != num_classes:
        found = f"{len(names)} classes ({join_names(names)})"
        raise ValueError(f"{train_file} has {found}; give data.num_classes={len(names)}")
    return names


def split_rows(
    read: Callable[[Path], TextRows], files: Sequence[str | None], val_share: float, test_share: float, seed: int
) -> tuple[TextRows, TextRows, TextRows]:
    """The rows for training, validation and test.  files: of the three; the last two are drawn from the first where
    they are None."""
    train_file, val_file, test_file = files
    train = read(Path(str(train_file)))
    if test_file:
        test = read(Path(test_file))
    else:
        kept, held_out = split_indices(len(train.labels), test_share, seed=0)
        train, test = train.take(kept), train.take(held_out)
    if val_file:
        return train, read(Path(val_file)), test
    kept, held_out = split_indices(len(train.labels), val_share, seed)
    return train.take(kept), train.take(held_out), test


def encode_rows(tokenizer: Any, rows: TextRows, max_length: int) -> LabelledSequences:
    return join_sequences(encode_texts(tokenizer, rows.texts, rows.pairs, max_length), rows.labels)


def describe_texts(splits: Sequence[LabelledSequences], vocab_size: int, max_length: int) -> str:
    """What is shown when a run starts."""
    counts = ", ".join(f"{len(split.labels):,}" for split in splits)
    cut = sum(int((split.lengths >= max_length).sum()) for split in splits)
    return (
        f"texts for training, validation and test: {counts}; {vocab_size:,} tokens in the vocabulary; {cut} texts are "
        f"cut at {max_length} tokens"
    )


def find_classes(file: Path, label: Column, header: bool) -> list[str]:
    """The labels in a file, sorted: numbers by size, words by the alphabet."""
    labels = Counter(row[0] for _, row in read_rows(file, [label], header))
    return sorted(labels, key=lambda name: (0, float(name), name) if is_number(name) else (1, 0.0, name))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_split(file: Path, columns: Sequence[Column], classes: Sequence[str], header: bool) -> TextRows:
    numbers = {name: number for number, name in enumerate(classes)}
    texts, pairs, labels = [], [], []
    for line, (*parts, label) in read_rows(file, columns, header):
        if label not in numbers:
            raise ValueError(f"{file}:{line}: the label {label!r} is none of {join_names(list(classes))}")
        texts.append(parts[0])
        pairs += parts[1:]
        labels.append(numbers[label])
    return TextRows(texts, pairs if len(columns) > 2 else None, labels)
