"""lab as a library, for scripts and notebooks: compose configs; record, list and load runs.

`compose` and `load` need Hydra; `fit` and `runs` do not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from lab.ledger.saved_run import SavedRun
    from lab.record.record import Progress
    from lab.run import Run
    from lab.train.stop import StopSignal


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config that `lab train OVERRIDES` trains with, resolved, as plain values.

    lab.compose(["model=mlp", "optimizer.lr=0.01"])
    Raises ConfigError where the overrides do not compose, or give a config that cannot be run.
    """
    from lab.config.check import check_config
    from lab.config.standalone import compose_overrides

    composed = compose_overrides(overrides)
    check_config(composed.resolved, composed.unresolved)
    return dict(composed.resolved)


def fit(
    run: "Run", directory: Path | str, progress: "Progress | None" = None, stop: "StopSignal | None" = None
) -> dict[str, float]:
    """Train a run to its end and record it in `directory`, as `lab train` does; returns the final scores.

    A second call with the same run resumes from the last checkpoint, or, where the run is done, notes that and returns
    its saved scores. Two runs are the same if their parts are (`lab.record.run_parts`): among them the initial weights,
    the first training batch, the hyper-parameters, the cadence and the seed.
    progress: display of the progress; None: a bar on a terminal.  stop: signal that ends the run early; None: none.
    Raises Refused where `directory` holds another run, RunInUse where another process works in it, Stopped where `stop`
    ended the run, Diverged where a loss or a score is not finite.
    """
    from lab.execution.script import fit_in_directory

    return fit_in_directory(run, Path(directory), progress, stop)


def runs(folder: Path | str | None = None) -> "list[SavedRun]":
    """The runs at or below a folder, in order of their paths: `run.state`, `run.results`, `run.config`, `run.metrics`,
    each read when it is first asked for.

    folder: root of the search; None: the outputs folder that `lab ls` lists.
    """
    from lab.config.outputs import split_outputs
    from lab.ledger.listing import find_runs
    from lab.ledger.saved_run import SavedRun

    root = Path(folder) if folder is not None else split_outputs([])[0]
    return [SavedRun(directory) for directory in find_runs(root)]


def load(run: Path | str) -> "nn.Module":
    """The model of a finished run with its final weights, in evaluation mode, on the device that its config names.

    run: directory of the run, or the first characters of its id, 4 at least.
    Raises ConfigError where there is no such run, or the run is not done, changed since it was sealed, or was trained
    by a script without a config.
    """
    from lab.assembly.predictor import load_finished_model

    return load_finished_model(find_saved_run(run))


def predict(run: Path | str, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """What a finished run says of new inputs, as `lab predict` does: texts, or files of images.

    lab.predict("outputs/runs/train/...", ["a fine film"])[0]["label"]
    run: as `load` takes it.  Raises ConfigError as `load`, and for inputs that cannot be read.
    """
    from lab.assembly.predictor import load_predictor

    predictor = load_predictor(find_saved_run(run))
    return list(predictor.predict(predictor.expand(inputs)))


def find_saved_run(run: Path | str) -> "SavedRun":
    from lab.config.outputs import split_outputs
    from lab.errors import ConfigError
    from lab.ledger.listing import find_run
    from lab.ledger.saved_run import SavedRun

    outputs = split_outputs([])[0]
    directory = find_run(Path(run), outputs)
    if directory is None:
        raise ConfigError(f"no run {run}; lab ls lists those of {outputs}")
    return SavedRun(directory)
