"""Arguments of the commands that read runs: the run, and the folder of runs."""

import argparse
from pathlib import Path

from lab.config.outputs import split_outputs
from lab.errors import ConfigError
from lab.ledger.listing import SHORTEST_ID, find_run, find_run_or_sweep, find_runs, is_sweep
from lab.ledger.saved_run import SavedRun

RUN_HELP = "a run's directory, its name, or the first characters of its id, 4 at least"

WEIGHTS_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")


def command_parser(verb: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of a command whose help ends in examples or a file's format, which keep their lines."""
    return argparse.ArgumentParser(
        f"lab {verb}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The parsed arguments; `outputs` is the folder of runs, which every command takes as `paths.outputs=DIR`."""
    outputs, rest = split_outputs(arguments)
    parsed = parser.parse_intermixed_args(rest)
    parsed.outputs = outputs
    return parsed


def read_run(path_or_id: Path, outputs: Path) -> SavedRun:
    """The run with this directory, or with this name or id in `outputs`. Raises ConfigError where there is none."""
    directory = find_run(path_or_id, outputs)
    if directory is None:
        raise ConfigError(f"no run {path_or_id}; {hint_at_run(path_or_id, outputs)}")
    return SavedRun(directory)


def read_all_runs(path_or_id: Path, outputs: Path) -> list[SavedRun]:
    """The run with this directory, name or id, or the runs of such a sweep in the order of its jobs. Raises
    ConfigError where there is neither."""
    directory = find_run_or_sweep(path_or_id, outputs)
    if directory is None or not is_sweep(directory):
        return [read_run(directory or path_or_id, outputs)]
    runs = sorted(find_runs(directory), key=lambda run: (len(run.name.partition("-")[0]), run.name))  # 2-... 10-...
    return [SavedRun(run) for run in runs]


def hint_at_run(given: Path, outputs: Path) -> str:
    """What to type where `given` names no run."""
    sweep = find_run_or_sweep(given, outputs)
    if sweep is not None:
        return f"it is a sweep: lab ls {sweep} lists its runs"
    if given.is_dir():
        return f"it is a folder of runs: lab ls {given}"
    if given.suffix in WEIGHTS_SUFFIXES:
        return "it is no file either; give the path of a file of weights, or a run"
    too_short = f"an id has {SHORTEST_ID} characters at least; " if len(str(given)) < SHORTEST_ID else ""
    return f"{too_short}lab ls lists those of {outputs}"
