"""Arguments of the commands that read runs: the run, and the folder of runs."""

import argparse
from pathlib import Path

from lab.config.outputs import split_outputs
from lab.errors import ConfigError
from lab.ledger.listing import find_run
from lab.ledger.saved_run import SavedRun

RUN_HELP = "a run's directory, or the first characters of its id, 4 at least"


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The parsed arguments; `outputs` is the folder of runs, which every command takes as `paths.outputs=DIR`."""
    outputs, rest = split_outputs(arguments)
    parsed = parser.parse_intermixed_args(rest)
    parsed.outputs = outputs
    return parsed


def read_run(path_or_id: Path, outputs: Path) -> SavedRun:
    """The run with this directory, or with this id in `outputs`. Raises ConfigError where there is none."""
    directory = find_run(path_or_id, outputs)
    if directory is None:
        is_folder = path_or_id.is_dir()
        hint = f"it is a folder of runs: lab ls {path_or_id}" if is_folder else f"lab ls lists those of {outputs}"
        raise ConfigError(f"no run {path_or_id}; {hint}")
    return SavedRun(directory)
