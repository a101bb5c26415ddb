"""Texts with labels from tables: CSV, TSV and JSON lines."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.text import suggest

Column = str | int
SUFFIXES = (".csv", ".tsv", ".jsonl")


def read_rows(path: Path, columns: Sequence[Column], header: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(line, the values of the columns) of each row.

    columns: names; or places, counted from 0, for a table without a header.  header: whether the first row of a CSV or
    TSV names the columns. A TSV has no quotes, as is usual for text.
    Raises ValueError with the file and the line for what cannot be read: bytes that are not UTF-8, a column that is not
    there, a line that is no JSON; and for a file without rows.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}")
    rows = read_json_rows(path) if path.suffix == ".jsonl" else read_csv_rows(path, header)
    is_empty = True
    for line, row in rows:
        is_empty = False
        yield line, [pick(row, column, path, line) for column in columns]
    if is_empty:
        raise ValueError(f"{path} has no rows")


def read_tables(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, the values of all columns by their names) of each row, as `read_rows`; JSON's null is an empty text."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}")
    rows = read_json_rows(path) if path.suffix == ".jsonl" else read_csv_rows(path, header=True)
    is_empty = True
    for line, row in rows:
        is_empty = False
        yield line, {str(name): "" if row[name] is None else pick(row, name, path, line) for name in row}
    if is_empty:
        raise ValueError(f"{path} has no rows")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, or of a gzip of one (`.gz`). Raises ValueError with file and line for bytes that are
    not UTF-8."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}:{number} is not UTF-8: {error.reason}") from error
    except (OSError, EOFError, zlib.error) as error:  # gzip raises the last two for a damaged file
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_csv_rows(path: Path, header: bool) -> Iterator[tuple[int, dict[Column, str]]]:
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    reader = csv.reader(read_lines(path), strict=True, **options)
    names: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header and names is None:
                names = row
                continue
            if names is not None and len(row) != len(names):
                raise ValueError(f"{path}:{reader.line_num} has {len(row)} fields, the header {len(names)}")
            yield reader.line_num, dict(zip(names, row, strict=True) if names else enumerate(row))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: {error}") from error


def read_json_rows(path: Path) -> Iterator[tuple[int, dict[Column, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number} holds a {type(row).__name__}, not an object with columns")
        yield number, row


def pick(row: dict[Column, Any], column: Column, path: Path, line: int) -> str:
    if column not in row:
        raise ValueError(f"{path}:{line} has no column {column!r}; {suggest(str(column), map(str, row))}")
    value = row[column]
    if isinstance(value, dict | list) or value is None:
        raise ValueError(f"{path}:{line}: {column} is {json.dumps(value)[:40]}, not a text or a number")
    return str(value)
