"""lab eval: scores a finished run's weights again."""

import argparse
import json
from pathlib import Path

from lab.cli.arguments import RUN_HELP, parse_arguments, read_run
from lab.cli.output import align_columns
from lab.config.override_config import override_config


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab eval", description="Score a finished run's weights again.")
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("overrides", nargs="*", help="keys to change, such as data.folder=... or hardware=cpu")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    saved = read_run(options.run, options.outputs)
    saved.check_done()

    from lab.assembly.final_model import score_again

    config = override_config(saved.config, options.overrides) if options.overrides else saved.config
    scores = score_again(saved, config)
    if options.json:
        print(json.dumps(scores, indent=2))
    else:
        print(align_columns([[name, f"{value:.4f}"] for name, value in scores.items()]))
    return 0
