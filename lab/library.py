"""lab as a library, for scripts and notebooks: configs composed, runs recorded, listed and loaded.

`compose` needs Hydra; the others do not.
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
    Raises ConfigError for what does not compose or cannot be run.
    """
    from lab.config.check import check_config
    from lab.config.standalone import compose_overrides

    composed = compose_overrides(overrides)
    check_config(composed.resolved, composed.unresolved)
    return dict(composed.resolved)


def fit(
    run: "Run", directory: Path | str, progress: "Progress | None" = None, stop: "StopSignal | None" = None
) -> dict[str, float]:
    """Train a run to its end and record it in `directory`, as `lab train` does; gives the final scores.

    Given again for the same run it resumes from the last checkpoint, or says that it is done and gives its scores. What
    makes a run the same: its initial weights, first training batch, hyper-parameters, cadence and seed.
    progress: shows progress; None: a bar on a terminal.  stop: tells when to stop; None: never.
    Raises Refused where `directory` holds another run, RunInUse where another process is at it, Stopped.
    """
    from lab.execution.script import fit_in_directory

    return fit_in_directory(run, Path(directory), progress, stop)


def runs(folder: Path | str | None = None) -> "list[SavedRun]":
    """The runs at or below a folder, in order of their paths: `run.state`, `run.results`, `run.config`, `run.metrics`,
    each read when it is first asked for.

    folder: None for the outputs folder that `lab ls` lists.
    """
    from lab.config.outputs import split_outputs
    from lab.ledger.listing import find_runs
    from lab.ledger.saved_run import SavedRun

    root = Path(folder) if folder is not None else split_outputs([])[0]
    return [SavedRun(directory) for directory in find_runs(root)]


def load(run: Path | str) -> "nn.Module":
    """The model of a finished run with its final weights, in evaluation mode, on the device that its config names.

    run: a run's directory, or the first characters of its id, 4 at least.
    Raises ConfigError where there is no such run, or it is not done, or it was trained by a script without a config.
    """
    from lab.assembly.final_model import load_finished_run
    from lab.config.outputs import split_outputs
    from lab.errors import ConfigError
    from lab.ledger.listing import find_run
    from lab.ledger.saved_run import SavedRun

    outputs = split_outputs([])[0]
    directory = find_run(Path(run), outputs)
    if directory is None:
        raise ConfigError(f"no run {run}; lab ls lists those of {outputs}")
    _, model = load_finished_run(SavedRun(directory))
    return model.eval()
