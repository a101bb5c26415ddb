"""lab diff: prints the differences between runs, read without torch or Hydra."""

import argparse
import json
from pathlib import Path

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns
from lab.errors import ConfigError
from lab.ledger.diff import diff_runs
from lab.text import format_cell


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab diff", description="What differs between runs, two or more.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    if len(options.runs) < 2:
        raise ConfigError("one run differs from nothing; lab diff A B compares two or more")
    runs = [read_run(path, options.outputs) for path in options.runs]
    differences = diff_runs(*runs)
    if options.json:
        print(json.dumps({name: values for name, *values in differences}, indent=2))
    elif not differences:
        print("no difference")
    else:
        rows = [[name, *map(format_cell, values)] for name, *values in differences]
        print(align_columns([["", *(str(run.directory) for run in runs)], *rows]))
    return 0
