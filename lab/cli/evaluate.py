"""lab eval: scores a finished run's weights again."""

import json
from collections.abc import Sequence
from pathlib import Path

from lab.cli.arguments import RUN_HELP, command_parser, parse_arguments, read_run
from lab.cli.output import align_columns
from lab.config.override_config import override_config
from lab.config.overrides import quote_path
from lab.errors import ConfigError
from lab.ledger.listing import find_run_or_sweep
from lab.text import join_names

EPILOG = """examples:
  lab eval 0123abcd                                                    a run, by its id
  lab eval 0123abcd data.folder=other/pictures                         on other data
  lab eval resnet20-12fca82f.th model=resnet20 data=cifar10            weights as they are
"""


def main(arguments: list[str]) -> int:
    parser = command_parser("eval", "Score a finished run's weights again, or weights as they are.", EPILOG)
    parser.add_argument("run", type=Path, help=f"{RUN_HELP}; or a file of weights")
    parser.add_argument("overrides", nargs="*", help="keys to change, such as data.folder=... or hardware=cpu")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parse_arguments(parser, arguments)
    if is_weights(options.run, options.outputs, options.overrides):
        scores = score_weights(str(options.run), options.overrides)
    else:
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


def is_weights(given: Path, outputs: Path, overrides: Sequence[str]) -> bool:
    """Whether this is a file of weights, or the name of some: where there is no such run, and a model is chosen."""
    if given.is_file():
        return True
    chooses_model = any(override.startswith("model=") for override in overrides)
    return chooses_model and not given.exists() and find_run_or_sweep(given, outputs) is None


def score_weights(weights: str, overrides: Sequence[str]) -> dict[str, float]:
    """The scores on `val` and `test` of weights as they are, of the model and the data that the overrides choose.

    Raises ConfigError where the weights lack a part of the model, which would be scored at random.
    """
    from lab.assembly.build import build
    from lab.config.check import check_config
    from lab.config.standalone import compose_overrides
    from lab.models.origin import origin_of
    from lab.train.scoring import evaluate

    composed = compose_overrides([*overrides, quote_path(f"weights={weights}"), "finetune_strategy=full"])
    check_config(composed.resolved, composed.unresolved)
    run = build(composed.resolved)
    if (origin := origin_of(run.model)) and origin.new:
        raise ConfigError(f"{weights} lacks {join_names(origin.new)}, which would be scored at random; train it first")
    return {**evaluate(run, "val"), **evaluate(run, "test")}
