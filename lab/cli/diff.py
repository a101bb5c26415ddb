"""lab diff: prints the differences between runs, read without torch or Hydra."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.cli.arguments import RUN_HELP, parse_arguments, read_all_runs
from lab.cli.output import align_columns
from lab.errors import ConfigError
from lab.ledger.diff import diff_runs
from lab.ledger.listing import directory_id
from lab.ledger.saved_run import SavedRun
from lab.text import format_cell


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab diff", description="What differs between runs, two or more.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"{RUN_HELP}; a sweep stands for its runs")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    runs = [run for path in options.runs for run in read_all_runs(path, options.outputs)]
    if len(runs) < 2:
        raise ConfigError("one run differs from nothing; lab diff A B compares two or more")
    differences = diff_runs(*runs)
    if options.json:
        print(json.dumps({name: values for name, *values in differences}, indent=2))
    elif not differences:
        print("no difference")
    else:
        print(format_differences(runs, differences))
    return 0


def format_differences(runs: Sequence[SavedRun], differences: Sequence[tuple[Any, ...]]) -> str:
    """The differences as text, a column for each run, and below them the directories of the runs."""
    ids = [directory_id(run.directory) for run in runs]
    heads = ids if len(set(ids)) == len(ids) else [str(run.directory) for run in runs]
    rows = [[name, *format_differing(values)] for name, *values in differences]
    table = align_columns([["", *heads], *rows])
    if heads is not ids:
        return table
    return f"{table}\n\n" + align_columns([[name, str(run.directory)] for name, run in zip(ids, runs, strict=True)])


def format_differing(values: Sequence[Any]) -> list[str]:
    """The values as cells; in full where two that differ would look the same."""
    cells = list(map(format_cell, values))
    return cells if len(set(cells)) == len(set(map(repr, values))) else list(map(str, values))
