"""lab diff: prints the differences between two runs, read without torch or Hydra."""

import argparse
import json
from pathlib import Path

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns
from lab.ledger.diff import diff_runs
from lab.text import format_cell


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab diff", description="What differs between two runs.")
    parser.add_argument("a", type=Path, help=RUN_HELP)
    parser.add_argument("b", type=Path)
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    a, b = (read_run(path, options.outputs) for path in (options.a, options.b))
    differences = diff_runs(a, b)
    if options.json:
        print(json.dumps({name: [left, right] for name, left, right in differences}, indent=2))
    elif not differences:
        print("no difference")
    else:
        rows = [[name, format_cell(left), format_cell(right)] for name, left, right in differences]
        print(align_columns([["", str(a.directory), str(b.directory)], *rows]))
    return 0
