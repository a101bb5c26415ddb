"""A table of one's own: numbers and categories by column, and what is to be predicted from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.data.in_memory import Examples, InMemory
from lab.data.order import balanced_indices, hold_out
from lab.data.readers import Reader
from lab.data.table_columns import TableColumns, find_columns, is_missing, target_names
from lab.data.text_table import SUFFIXES, read_tables
from lab.text import as_number, by_number, join_names

Row = tuple[str, Mapping[str, str]]  # where it is, such as `x.csv:3`, and its values by column


class TableReader(Reader):
    """Rows of a table as float32 (B, F): numbers, standardised, then a 1 for the word of each category and else 0.

    columns: the inputs.  means, stds: of the columns of numbers.
    missing: `refuse`, or `fill`: a number with its mean, a word with none; so are words that are not known.
    target_scale: means and standard deviations of the numbers to predict; None for classes.
    """

    kind = "rows"

    def __init__(
        self,
        columns: TableColumns,
        means: Sequence[float],
        stds: Sequence[float],
        missing: str,
        target_scale: tuple[list[float], list[float]] | None = None,
    ):
        self.columns, self.means, self.stds, self.missing = columns, list(means), list(stds), missing
        self.target_scale = target_scale

    @classmethod
    def fit(cls, rows: Sequence[Row], columns: TableColumns, missing: str) -> "TableReader":
        """A reader that standardises by these rows, of a column that is the same in all rows by 1."""
        means, stds = [], []
        for name in columns.numbers:
            known = [number for where, row in rows if (number := read_number(where, row, name, missing)) is not None]
            values = torch.tensor(known, dtype=torch.float64)
            means.append(float(values.mean()) if known else 0.0)
            std = float(values.std(correction=0)) if known else 0.0
            stds.append(std if std > 1e-12 * max(1.0, abs(means[-1])) else 1.0)
        return cls(columns, means, stds, missing)

    @classmethod
    def load(cls, directory: Path, **options: Any) -> "TableReader":
        columns = TableColumns(options.pop("numbers"), options.pop("categories"))
        return cls(columns, **options)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "numbers": list(self.columns.numbers),
            "categories": {name: list(words) for name, words in self.columns.categories.items()},
            "means": self.means,
            "stds": self.stds,
            "missing": self.missing,
            "target_scale": self.target_scale,
        }

    def expand(self, inputs: Sequence[str]) -> list[str]:
        """The inputs, JSON objects, with the rows of a table's file in its place."""
        found: list[str] = []
        for given in inputs:
            if given.endswith(SUFFIXES) and Path(given).is_file():
                found += [json.dumps(row, ensure_ascii=False) for _, row in read_tables(Path(given))]
            else:
                found.append(given)
        return found

    def read(self, inputs: Sequence[str]) -> Tensor:
        rows: list[Row] = []
        for given in inputs:
            try:
                row = json.loads(given)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                names = [*self.columns.numbers, *self.columns.categories]
                raise ValueError(
                    f"{given[:60]!r} is neither a row as a JSON object, with {join_names(names)}, nor a table's file"
                )
            rows.append((given[:60], {name: "" if value is None else str(value) for name, value in row.items()}))
        return self.encode(rows)

    def encode(self, rows: Sequence[Row]) -> Tensor:
        """Raises ValueError with the place of a value that is missing, or that is no number or no known word."""
        encoded = torch.zeros(len(rows), self.columns.width)
        for inputs, (where, row) in zip(encoded, rows, strict=True):
            numbers = [read_number(where, row, name, self.missing) for name in self.columns.numbers]
            scaled = zip(numbers, self.means, self.stds, strict=True)
            values = [0.0 if number is None else (number - mean) / std for number, mean, std in scaled]
            for name, words in self.columns.categories.items():
                word = row.get(name, "")
                if is_missing(word):
                    refuse_missing(where, name, self.missing)
                elif word not in words and self.missing == "refuse":
                    raise ValueError(f"{where}: {name} is {word!r}, none of {join_names(list(words))}")
                values += [float(word == known) for known in words]
            inputs[:] = torch.tensor(values)
        return encoded


def csv_table(
    batch_size: int,
    seed: int,
    *,
    train_file: str,
    target: str | Sequence[str],
    val_file: str | None = None,
    test_file: str | None = None,
    numbers: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    missing: str = "refuse",
    val_share: float = 0.1,
    test_share: float = 0.1,
    train_examples: int | None = None,
    num_classes: int | None = None,
    shape: Sequence[int] | None = None,
) -> InMemory:
    """Batches of inputs, float32 (B, F) (`TableReader`), and targets: float32 (B,), or (B, K) of several columns; with
    `classes` their numbers, int64 (B,).

    train_file, val_file, test_file: CSV, TSV or JSON lines. Without a val_file, `val_share` of the training rows are
        drawn from the seed; without a test_file, `test_share` of them, the same for every seed.
    target: column to predict, or several columns of numbers.
    numbers, categories: columns that are inputs (`lab.data.table_columns.find_columns`). The categories have the words
        of the training file; numbers are standardised by the training rows alone.
    classes: words of the target, for classification; None where it is a number.
    missing: `refuse` or `fill` (`TableReader`); a missing target is always refused.
    train_examples: number of training rows, balanced over the classes; None: all.
    num_classes, shape: numbers of outputs and of inputs that the model was told.
    Raises ValueError with file and line for what cannot be read.
    """
    if missing not in ("refuse", "fill"):
        raise ValueError(f"missing={missing} is neither refuse nor fill")
    columns = find_columns(train_file, target, numbers, categories)
    targets = target_names(target)
    if classes is not None and len(targets) > 1:
        raise ValueError(f"classes are of one column; target names {join_names(targets)}")
    outputs = len(classes) if classes else len(targets)
    if num_classes not in (None, outputs) or list(shape or [columns.width]) != [columns.width]:
        raise ValueError(
            f"{train_file} has {columns.width} inputs and {outputs} outputs, not {shape} and {num_classes}"
        )
    files = {"train": train_file, "val": val_file, "test": test_file}
    rows = hold_out({name: read_table(file) for name, file in files.items() if file}, val_share, test_share, seed)
    read = {name: read_targets(part, targets, classes) for name, part in rows.items()}
    if train_examples is not None:
        labels = read["train"] if classes else torch.zeros(len(rows["train"]), dtype=torch.int64)
        kept = balanced_indices(labels, train_examples, seed)
        rows["train"], read["train"] = [rows["train"][place] for place in kept.tolist()], read["train"][kept]
    reader = TableReader.fit(rows["train"], columns, missing)
    if not classes:
        reader.target_scale = scale_of(read["train"])
    splits = [Examples(reader.encode(rows[name]), read[name]) for name in ("train", "val", "test")]
    counts = ", ".join(f"{len(rows[name]):,} {name}" for name in ("train", "val", "test"))
    description = f"rows: {counts}; {len(columns.numbers)} columns of numbers, {len(columns.categories)} of categories"
    data = InMemory(*splits, batch_size=batch_size, seed=seed, classes=classes, description=description)
    vars(data).update(reader=reader, target_scale=reader.target_scale)
    return data


def read_table(file: str) -> list[Row]:
    return [(f"{file}:{line}", row) for line, row in read_tables(Path(file))]


def read_number(where: str, row: Mapping[str, str], name: str, missing: str) -> float | None:
    """The number in a column; None where it is missing and that is allowed."""
    text = row.get(name, "")
    if is_missing(text):
        refuse_missing(where, name, missing)
        return None
    number = as_number(text)
    if number is None:
        raise ValueError(f"{where}: {name} is {text!r}, not a number")
    return number


def refuse_missing(where: str, name: str, missing: str) -> None:
    if missing == "refuse":
        raise ValueError(f"{where}: {name} is missing; add it, or give data.missing=fill")


def read_targets(rows: Sequence[Row], targets: Sequence[str], classes: Sequence[str] | None) -> Tensor:
    """float32 (N,), or (N, K) of several columns; of classes int64 (N,)."""
    if classes:
        places = {word: place for place, word in enumerate(classes)}
        for where, row in rows:
            if row.get(targets[0]) not in places:
                known = join_names(sorted(places, key=by_number))
                raise ValueError(f"{where}: {targets[0]} is {row.get(targets[0])!r}, none of data.classes: {known}")
        return torch.tensor([places[row[targets[0]]] for _, row in rows], dtype=torch.int64)
    values = [[read_number(where, row, name, "refuse") for name in targets] for where, row in rows]
    found = torch.tensor(values, dtype=torch.float32).reshape(len(rows), len(targets))
    return found[:, 0] if len(targets) == 1 else found


def scale_of(targets: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each column of targets, 1 for one that is constant."""
    columns = targets.double().reshape(len(targets), -1)
    stds = columns.std(0, correction=0)
    return columns.mean(0).tolist(), torch.where(stds > 0, stds, torch.ones_like(stds)).tolist()
