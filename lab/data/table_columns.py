"""The columns of a table of one's own, before they are numbers. Does not import torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lab.data.text_table import read_tables
from lab.text import as_number, by_number, join_names, suggest

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


@dataclass(frozen=True)
class TableColumns:
    """Which columns are inputs.  numbers: names of columns of numbers.  categories: words of each other column."""

    numbers: Sequence[str]
    categories: Mapping[str, Sequence[str]]

    @property
    def width(self) -> int:
        """The number of inputs: one for a number, one for each word of a category."""
        return len(self.numbers) + sum(map(len, self.categories.values()))


def find_columns(
    file: str,
    target: str | Sequence[str],
    numbers: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
) -> TableColumns:
    """The columns of a CSV, TSV or JSON lines that are inputs.

    target: column to predict, or several.
    numbers, categories: names of columns; None: of the columns that are in neither list, those whose values are all
        numbers or missing, and the others.
    Raises ValueError for a name that is no column, and for a column in both lists or that is to be predicted.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.resolve()}; give data.train_file=FILE, a CSV, TSV or JSON lines")
    modified = path.stat().st_mtime_ns
    lists = [None if names is None else tuple(names) for names in (numbers, categories)]
    return _find_columns(file, modified, tuple(target_names(target)), *lists)


@lru_cache(maxsize=8)
def _find_columns(
    file: str,
    modified: int,
    targets: tuple[str, ...],
    numbers: tuple[str, ...] | None,
    categories: tuple[str, ...] | None,
) -> TableColumns:
    rows = [row for _, row in read_tables(Path(file))]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in (*targets, *(numbers or ()), *(categories or ())):
        if name not in names:
            raise ValueError(f"{file} has no column {name!r}; {suggest(name, names)}")
    if twice := [name for name in (*targets, *(numbers or ())) if name in (*(categories or ()),)]:
        raise ValueError(f"{file}: the column {twice[0]!r} is a category, and a number or to be predicted")
    if twice := [name for name in targets if name in (numbers or ())]:
        raise ValueError(f"{file}: the column {twice[0]!r} is to be predicted, so it is no input")
    free = [name for name in names if name not in (*targets, *(numbers or ()), *(categories or ()))]
    by_kind: dict[bool, list[str]] = {True: list(numbers or ()), False: list(categories or ())}
    for name in free:
        is_number = all(is_missing(row.get(name, "")) or as_number(row[name]) is not None for row in rows)
        if (numbers, categories)[not is_number] is None:
            by_kind[is_number].append(name)
    words = {
        name: sorted({row[name] for row in rows if not is_missing(row.get(name, ""))}, key=by_number)
        for name in by_kind[False]
    }
    if not by_kind[True] and not words:
        raise ValueError(f"{file} has no column beside {join_names(list(targets))} to predict from")
    return TableColumns(by_kind[True], words)


def target_names(target: str | Sequence[str]) -> list[str]:
    return [target] if isinstance(target, str) else list(target)


def is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING
