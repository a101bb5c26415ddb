"""lab eval: score a finished run's weights again."""

import argparse
import json
import sys
from pathlib import Path

from lab.build.final_model import score_again
from lab.cli.output import align_columns, print_missing
from lab.cli.show import find
from lab.errors import ConfigError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab eval", description="Score a finished run's weights again.")
    parser.add_argument("run", type=Path, help="a run's directory, or the 8 characters of its id")
    parser.add_argument("overrides", nargs="*", help="keys to change, such as data.folder=... or hardware=cpu")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_intermixed_args(arguments)
    directory = find(given.run)
    if directory is None:
        return print_missing(given.run, "no run", "lab ls lists them")
    try:
        scores = score_again(directory, given.overrides)
    except ConfigError as error:
        for problem in error.problems:
            print(f"lab: {problem}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(scores, indent=2))
    else:
        print(align_columns([[name, f"{value:.4f}"] for name, value in scores.items()]))
    return 0
