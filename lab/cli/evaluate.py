"""lab eval: score a finished run's weights again."""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lab.cli.show import aligned, find, missing
from lab.config.errors import ConfigError
from lab.names import nearest
from lab.record.status import broken, read_status
from lab.study.diff import flat, read_config


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lab eval", description="Score a finished run's weights again.")
    parser.add_argument("run", type=Path, help="a run's directory, or the 8 characters of its id")
    parser.add_argument("overrides", nargs="*", help="keys to change, such as data.folder=... or hardware=cpu")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_intermixed_args(arguments)
    directory = find(given.run)
    if directory is None:
        return missing(given.run, "no run", "lab ls lists them")
    try:
        scores = evaluated(directory, given.overrides)
    except ConfigError as error:
        for problem in error.problems:
            print(f"lab: {problem}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(scores, indent=2))
    else:
        print(aligned([[name, f"{value:.4f}"] for name, value in scores.items()]))
    return 0


def evaluated(directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Scores of the run's final weights on `val`, `test` and a part of `train`, as in its results.

    Raises ConfigError where there are none to trust.
    """
    from lab.train.loop import evaluate, generalisation

    run, model = finished(directory, overrides)
    val = evaluate(run, "val", model=model)
    return {**val, **evaluate(run, "test", model=model), **generalisation(run, val, model=model)}


def finished(directory: Path, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """A run that is done, built again, and the model with its final weights. Raises ConfigError as `evaluated`."""
    state = read_status(directory)["state"]
    if state != "done":
        raise ConfigError(f"{directory} is {state}, not done; the command that started it goes on with it")
    if changed := broken(directory, checkpoints=True):
        raise ConfigError(f"{directory} is not as it was sealed: {', '.join(changed)} changed")
    config = overridden(read_config(directory), overrides)
    from lab.config.build import build
    from lab.config.check import check
    from lab.config.dry import dry_step

    check(config, (directory / ".hydra" / "config.yaml").read_text())
    run = build(config)
    dry_step(run)  # before the weights are there: it asks for those to score, which some methods then make anew
    return run, final_model(run, directory)


def final_model(run: Any, directory: Path) -> Any:
    """The run's model with the weights that were scored at its end."""
    from lab.record import checkpoints
    from lab.train.loop import scored_model
    from lab.train.state import restore

    best = directory / "checkpoints" / "best.pt"
    if run.final == "best" and best.exists():
        model = run.regularize.scored(run.model)
        model.load_state_dict(checkpoints.load(best)["model"])
        return model
    restore(run, checkpoints.load(directory / "checkpoints" / "last.pt")["run"])
    return scored_model(run)


def overridden(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The config with Hydra overrides of single keys, and of whole groups, applied."""
    from hydra import compose, initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from lab.config.app import explain, register
    from lab.config.check import GROUPS

    changed = copy.deepcopy(config)
    register()
    try:
        with initialize_config_module("lab.conf", version_base="1.3"):
            for override in OverridesParser.create().parse_overrides(list(overrides)):
                key, value = override.key_or_group, override.value()
                if key in GROUPS and isinstance(value, str):
                    composed = compose(f"{key}/{value}")
                    full = OmegaConf.to_container(OmegaConf.merge(changed, {key: None}, composed), resolve=True)
                    changed[key] = cast(dict[str, Any], full)[key]
                elif key in (known := flat(changed)):
                    assign(changed, key.split("."), value)
                else:
                    raise ConfigError(f"no key {key!r}; {nearest(key, known)}")
    except HydraException as error:
        raise ConfigError(explain(error, list(overrides))) from error
    return changed


def assign(config: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        config = config[part]
    config[path[-1]] = value
