"""The Hydra application of `lab train`, `plan`, `check` and `rank`, each of which passes functions to it."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab.config.composed import ComposedConfig
from lab.config.hydra_setup import register_with_hydra
from lab.config.messages import explain
from lab.config.outputs import keep_trace
from lab.config.overrides import quote_path, wrap_in_choices
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, LabError, report_error
from lab.hydra_app.resolvers import directory_resolvers
from lab.identity.identity import Identifier, Identity
from lab.sweep.fork_server import start_fork_server
from lab.text import relative_to_cwd

if TYPE_CHECKING:
    from lab.sweep.plan import Plan

RunFunction = Callable[[ComposedConfig, Identity, Path], int]
SweepFunction = Callable[[Any, Sequence[str]], int]  # takes a lab.hydra_app.planner.SweepPlanner and the arguments
BatchFunction = Callable[["Plan", Mapping[str, Any]], int]

SHOWING_FLAGS = {
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--version",
    "-sc",
    "--shell-completion",
}
FLAGS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
}


@dataclass
class HydraApp:
    """Hydra's task function, with the functions that lab's sweeper and launcher call. Each function gives an exit code.

    verb: name of the command, for messages.  run: function that does a single run; None for a command that only takes
    sweeps.  sweep: function that takes the arguments of a sweep.  batch: function that does the jobs of a plan for
    another sweeper; None for a command that refuses other sweepers.  with_traceback: whether errors are printed with
    their tracebacks.  code: exit code of the command.  sweep_name: name of the planned sweep's directory.
    identify: gives the identities of configs.
    """

    verb: str
    run: RunFunction | None
    sweep: SweepFunction
    batch: BatchFunction | None = None
    with_traceback: bool = False
    code: int = 0
    sweep_name: str = "sweep"
    identify: Identifier = field(default_factory=Identifier)

    def __call__(self, config: DictConfig) -> None:
        """Do a single run, perhaps for another sweeper."""
        if self.run is None:
            raise ConfigError(f"lab {self.verb} plans with lab's own sweeper; leave hydra/sweeper= out")
        hydra = HydraConfig.get()
        directory = Path(hydra.runtime.output_dir)
        if Path.cwd() == Path(hydra.runtime.cwd):  # hydra.job.chdir=true changes it
            directory = relative_to_cwd(directory)
        try:
            check_single_run(config, self.verb)
            composed = ComposedConfig.from_hydra(config, hydra)
            self.code = self.run(composed, self.identify(composed.resolved), directory) or self.code
        except LabError as error:  # reported here: under another sweeper the other runs go on
            remove_if_empty(directory, Path(str(config.paths.outputs)))
            self.code = report_error(error, self.with_traceback)
            keep_trace(error, Path(str(config.paths.outputs)))
        except KeyboardInterrupt:
            remove_if_empty(directory, Path(str(config.paths.outputs)))
            raise
        except BrokenPipeError:  # the reader of the output has ended
            raise
        except Exception:  # a bug: under another sweeper the other runs go on
            traceback.print_exc()
            remove_if_empty(directory, Path(str(config.paths.outputs)))
            self.code = EXIT_FAILED


def check_single_run(config: DictConfig, verb: str) -> None:
    """Raises ConfigError where the config is one of several runs, and a single one was asked for."""
    for key, what in (("sweep", "a sweep"), ("search", "a search")):
        if config.get(key) and HydraConfig.get().mode == RunMode.RUN:
            given = " ".join(HydraConfig.get().overrides.task)
            one = "" if key == "search" and "search=" in given else f"; for a single run: lab {verb} {given} {key}=null"
            raise ConfigError(f"the config has {what} ({key}:); for all of its runs: lab {verb} -m {given}{one}")


def run_app(arguments: list[str], app: HydraApp) -> int:
    """Run Hydra on the arguments of a command. Gives the exit code.

    Raises ConfigError for arguments that Hydra rejects, and other LabErrors of the app's functions.
    """
    arguments = [quote_path(argument) for argument in arguments]
    flags = [argument for argument in arguments if argument.startswith("-")]
    is_multirun = "-m" in flags or "--multirun" in flags or "hydra.mode=MULTIRUN" in arguments
    shows_only = bool(set(flags) & SHOWING_FLAGS)
    if app.run is None and not is_multirun and not shows_only:
        arguments, is_multirun = ["-m", *arguments], True
    if is_multirun and not shows_only:
        start_fork_server()  # which imports torch while the sweep is planned
    app.with_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        register_with_hydra(directory_resolvers(app.identify, lambda: app.sweep_name))
        call_hydra(app, order_arguments(arguments, is_multirun))
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    except LabError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: flags that exclude each other
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        raise ConfigError(explain(error, overrides)) from error
    except BrokenPipeError:
        raise
    except OSError as error:  # of the directories that Hydra makes before it calls the task
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}; paths.outputs= or LAB_OUTPUTS= moves the outputs"
        ) from error
    return app.code


def call_hydra(app: HydraApp, arguments: Sequence[str]) -> None:
    """Call Hydra, with the arguments in sys.argv. HYDRA_FULL_ERROR makes it raise errors instead of printing them."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["lab", *arguments]
    hydra_main(version_base="1.3", config_path="pkg://lab.conf", config_name="train")(app)()


def order_arguments(arguments: Sequence[str], is_multirun: bool) -> list[str]:
    """The flags with their values, then the overrides, the order that Hydra 1.3 needs. A sweep's overrides get a form
    from which Hydra can compose the sweep's first config."""
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in FLAGS_WITH_VALUE:
            flags += [argument, *([value] if (value := next(remaining, None)) is not None else [])]
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return [*flags, *(wrap_in_choices(overrides) if is_multirun else overrides)]


def remove_if_empty(directory: Path, outputs: Path) -> None:
    """Remove a run directory that Hydra made before the run was refused, and the empty folders above it that lie in
    `outputs`."""
    outputs, folder = outputs.resolve(), directory.resolve()
    while folder != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
        if outputs not in folder.parents:
            return
