"""Texts with labels, from a table of one's own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lab.data.order import balanced_indices, split_indices
from lab.data.readers import TextReader
from lab.data.sequences import LabelledSequences, PaddedSequences
from lab.data.text_table import Column, read_rows
from lab.data.tokenize import make_tokenizer, pad_id, tokenize
from lab.text import as_number, by_number, join_names


class TextRows(NamedTuple):
    """texts, pairs: first and second text of each row; pairs is None where there is one text.  labels: numbers of the
    classes, or numbers to predict."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]

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
    numeric: bool = False,
    download: bool = False,
) -> PaddedSequences:
    """Texts as token ids, in padded batches (`lab.data.sequences.PaddedSequences`).

    train_file, val_file, test_file: CSV, TSV or JSON lines (`lab.data.text_table.read_rows`). Without a val_file,
    `val_share` of the training rows are drawn from the seed; without a test_file, `test_share` of them, the same for
    every seed.
    text, second_text, label: columns, by name, or by place in a table without a header.
    numeric: whether the labels are numbers to predict, for task=regression; then `num_classes` is 1.
    num_classes: number of classes.  classes: their names in the order of their numbers; None: the labels that the
    training file has, sorted, numbers by size.
    train_examples: number of training rows, balanced over the classes; None: all.
    tokenizer, vocab_size, lowercase: as `lab.data.tokenize.make_tokenizer` takes them; the vocabulary is that of the
    training rows alone.  max_length: tokens after which a text is cut.
    Raises ValueError with file and line for rows that cannot be used.
    """
    columns = [text, *([second_text] if second_text is not None else []), label]
    files = (train_file, val_file, test_file)
    if numeric and num_classes != 1:
        raise ValueError("a label that is a number is one output of the model; give data.num_classes=1")
    read, names = read_labelled(files, columns, header, classes, None if numeric else num_classes)
    train, val, test = split_rows(read[0], read[1], read[2], val_share, test_share, seed)
    if train_examples is not None:
        groups = torch.zeros(len(train.labels), dtype=torch.int64) if numeric else torch.tensor(train.labels)
        train = train.take(balanced_indices(groups, train_examples, seed))
    made = make_tokenizer(tokenizer, [*train.texts, *(train.pairs or [])], vocab_size, lowercase, download)
    near = Path(train_file).parent
    splits = [encode_rows(made, rows, near, max_length, numeric) for rows in (train, val, test)]
    return PaddedSequences(
        *splits,
        batch_size=batch_size,
        seed=seed,
        pad=pad_id(made),
        group_by_length=group_by_length,
        classes=names,
        description=describe_texts(splits, made.get_vocab_size(), max_length),
        reader=TextReader(made, max_length, second_text is not None),
    )


def read_labelled(
    files: Sequence[str | None],
    columns: Sequence[Column],
    header: bool,
    classes: Sequence[str] | None,
    num_classes: int | None,
) -> tuple[list[Any], list[str] | None]:
    """The rows of each file, None where there is none, and the names of the classes; for num_classes=None, labels are
    numbers to predict."""
    rows = [list(read_rows(Path(file), columns, header)) if file else [] for file in files]
    first = str(files[0])
    names = None if num_classes is None else class_names(first, [row[-1] for _, row in rows[0]], classes, num_classes)
    read = [number_labels(file, part, names) if file else None for file, part in zip(files, rows, strict=True)]
    return read, names


def class_names(file: str, labels: Sequence[str], classes: Sequence[str] | None, num_classes: int) -> list[str]:
    """The names of the classes; where they are not given, the labels that the file has, numbers by size and words by
    the alphabet. Raises ValueError for another number of them than `num_classes`."""
    names = list(classes) if classes else sorted(set(labels), key=by_number)
    if len(names) != num_classes:
        raise ValueError(f"{file} has {len(names)} classes ({join_names(names)}); give data.num_classes={len(names)}")
    return names


def split_rows(
    train: TextRows, val: TextRows | None, test: TextRows | None, val_share: float, test_share: float, seed: int
) -> tuple[TextRows, TextRows, TextRows]:
    """The rows for training, validation and test, of which the last two are drawn from the first where they are
    None."""
    if test is None:
        kept, held_out = split_indices(len(train.labels), test_share, seed=0)
        train, test = train.take(kept), train.take(held_out)
    if val is None:
        kept, held_out = split_indices(len(train.labels), val_share, seed)
        train, val = train.take(kept), train.take(held_out)
    return train, val, test


def encode_rows(tokenizer: Any, rows: TextRows, near: Path, max_length: int, numeric: bool) -> LabelledSequences:
    sequences = tokenize(tokenizer, rows.texts, near, pairs=rows.pairs, max_length=max_length)
    return LabelledSequences(sequences, torch.tensor(rows.labels, dtype=torch.float32 if numeric else torch.int64))


def describe_texts(splits: Sequence[LabelledSequences], vocab_size: int, max_length: int) -> str:
    """What is shown when a run starts."""
    counts = ", ".join(f"{len(split.labels):,}" for split in splits)
    cut = sum(int((split.sequences.lengths >= max_length).sum()) for split in splits)
    return (
        f"texts for training, validation and test: {counts}; {vocab_size:,} tokens in the vocabulary; {cut} texts are "
        f"cut at {max_length} tokens"
    )


def number_labels(file: str, rows: Iterable[tuple[int, list[str]]], classes: Sequence[str] | None) -> TextRows:
    """The rows with numbers in place of their labels: of the classes, or those that the labels are. Raises ValueError
    with file and line for a label that is no class, or no number.

    rows: (line, one or two texts and a label).  classes: None for labels that are numbers to predict.
    """
    numbers = None if classes is None else {name: number for number, name in enumerate(classes)}
    columns: list[list[str]] = []
    labels: list[Any] = []
    for line, (*texts, label) in rows:
        number = as_number(label) if numbers is None else numbers.get(label)
        if number is None:
            expected = "a number" if classes is None else f"one of {join_names(list(classes))}"
            raise ValueError(f"{file}:{line}: the label {label!r} is not {expected}")
        columns.append(texts)
        labels.append(number)
    first, *second = map(list, zip(*columns, strict=True))
    return TextRows(first, second[0] if second else None, labels)
