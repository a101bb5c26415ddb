"""Builds a finished run again, with its final weights."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from lab.assembly.build import build
from lab.assembly.dry_run import dry_run
from lab.config.check import check_config
from lab.config.trust import check_code_outside
from lab.errors import ConfigError
from lab.ledger.saved_run import SavedRun
from lab.record.checkpoints import load_checkpoint
from lab.run import Run
from lab.train.scoring import evaluate, final_model, generalization_gap
from lab.train.state import restore_snapshot


def score_again(saved: SavedRun, config: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Scores of the run's final weights on `val`, `test` and a part of `train`, as in its results.

    config: config to build the run from; None: the run's own. Raises ConfigError as `load_finished_run`.
    """
    run, model = load_finished_run(saved, config)
    val = evaluate(run, "val", model=model)
    return {**val, **evaluate(run, "test", model=model), **generalization_gap(run, val, model=model)}


def load_finished_run(saved: SavedRun, config: Mapping[str, Any] | None = None) -> tuple[Run, torch.nn.Module]:
    """The run, built again, and the model with its final weights.

    config: config to build the run from; None: the run's own. Raises ConfigError where the run is not done, changed
    since it was sealed, or was not started by lab train.
    """
    config = check_can_build(saved, config or saved.config)
    run = build(config)
    dry_run(run)  # before the weights are loaded, as some regularizers create the model to score on the first call
    return run, load_final_model(run, saved)


def check_can_build(saved: SavedRun, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config. Raises ConfigError as `load_finished_run`."""
    saved.check_done()
    if changed := saved.changed_files(checkpoints=True):
        raise ConfigError(f"{saved.directory} is not as it was sealed: {', '.join(changed)} changed")
    if not saved.config:
        raise ConfigError(
            f"{saved.directory} was trained by a script, without a config to build its model from; score it in that "
            "script: lab.evaluate(run)"
        )
    check_code_outside(config, saved.directory)
    check_config(config, saved.unresolved_config)
    return config


def load_final_model(run: Run, saved: SavedRun) -> torch.nn.Module:
    """The run's model with the weights that were scored at its end. Raises ConfigError where they do not fit the model,
    as after overrides that change it."""
    checkpoint = load_checkpoint(saved.final_weights)
    try:
        if saved.final_weights.name == "best.pt":
            return final_model(run, checkpoint["model"])
        restore_snapshot(run, checkpoint["run"])
    except (RuntimeError, ValueError) as error:
        if not re.search("state.dict", str(error)):  # torch's words where a model or an optimizer does not fit
            raise
        mismatch = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{saved.final_weights} does not fit this config: {mismatch}; leave out the overrides that change the "
            "model or the optimizer"
        ) from error
    return final_model(run)
