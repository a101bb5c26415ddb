"""A finished run, built again with its final weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.config.override_config import override_config
from lab.errors import ConfigError
from lab.record.status import changed_files, read_status
from lab.runs.diff import read_config


def score_again(directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Scores of the run's final weights on `val`, `test` and a part of `train`, as in its results.

    Raises ConfigError where there are none to trust.
    """
    from lab.train.scoring import evaluate, generalization_gap

    run, model = load_finished_run(directory, overrides)
    val = evaluate(run, "val", model=model)
    return {**val, **evaluate(run, "test", model=model), **generalization_gap(run, val, model=model)}


def load_finished_run(directory: Path, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """A run that is done, built again, and the model with its final weights. Raises ConfigError as `evaluated`."""
    state = read_status(directory)["state"]
    if state != "done":
        raise ConfigError(f"{directory} is {state}, not done; the command that started it goes on with it")
    if changed := changed_files(directory, checkpoints=True):
        raise ConfigError(f"{directory} is not as it was sealed: {', '.join(changed)} changed")
    config = override_config(read_config(directory), overrides)
    from lab.build.build import build
    from lab.build.dry_run import dry_run
    from lab.config.check import check_config

    check_config(config, (directory / ".hydra" / "config.yaml").read_text())
    run = build(config)
    dry_run(run)  # before the weights are there: it asks for those to score, which some methods then make anew
    return run, load_final_model(run, directory)


def load_final_model(run: Any, directory: Path) -> Any:
    """The run's model with the weights that were scored at its end."""
    from lab.record import checkpoints
    from lab.train.scoring import final_model
    from lab.train.state import restore_snapshot

    best = directory / "checkpoints" / "best.pt"
    if run.final == "best" and best.exists():
        return final_model(run, checkpoints.load_checkpoint(best)["model"])
    restore_snapshot(run, checkpoints.load_checkpoint(directory / "checkpoints" / "last.pt")["run"])
    return final_model(run)
