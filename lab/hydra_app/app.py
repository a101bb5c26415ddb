"""The Hydra application behind `lab train`, `plan`, `check` and `rank`."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab.cli.output import print_error, relative_to_cwd
from lab.cli.show import OUTPUTS
from lab.config.composed import ComposedConfig
from lab.config.hydra_setup import register_with_hydra
from lab.config.messages import explain
from lab.config.overrides import quote_path, wrap_in_choices
from lab.errors import EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, Refused, RunInUse
from lab.hydra_app.resolvers import directory_resolvers
from lab.identity.identity import Identifier

SweepFunction = Callable[[Any, Sequence[str]], int]


class HydraApp:
    """One command.

    verb: `train`, `plan`, `check` or `rank`.  traceback: whether errors show theirs.  sweep: what is done with a
    sweep's arguments instead of its runs.  code: to exit with.  identify: gives identities, each source and file read
    once.
    """

    def __init__(self, verb: str, traceback: bool, sweep: "SweepFunction | None" = None) -> None:
        self.verb, self.traceback, self.sweep = verb, traceback, sweep
        self.code = 0
        self.identify = Identifier()

    def task(self, config: DictConfig) -> None:
        """Hydra's task function: one run."""
        if self.verb != "train":
            raise ConfigError(f"lab {self.verb} plans with lab's own sweeper; leave hydra/sweeper= out")
        hydra = HydraConfig.get()
        directory = Path(hydra.runtime.output_dir)
        if Path.cwd() == Path(hydra.runtime.cwd):  # hydra.job.chdir=true changes it
            directory = relative_to_cwd(directory)
        try:
            from lab.cli.train import one_run

            asked = ComposedConfig.from_hydra(config, hydra)
            self.code = one_run(asked, self.identify(asked.config), directory) or self.code
        except (ConfigError, Refused, RunInUse) as error:
            remove_if_empty(directory)
            self.code = print_error(error, self.traceback)
        except KeyboardInterrupt:
            remove_if_empty(directory)
            raise
        except BrokenPipeError:  # who reads has gone
            raise
        except Exception:  # nobody foresaw it; under another sweeper the other runs go on
            traceback.print_exc()
            remove_if_empty(directory)
            self.code = EXIT_FAILED


def run_app(arguments: list[str], verb: str = "train", sweep: "SweepFunction | None" = None) -> int:
    """Run Hydra on the arguments. Gives the exit code.  verb, sweep: see Session."""
    arguments = [quote_path(argument) for argument in arguments]
    flags = [a for a in arguments if a.startswith("-")]
    multirun = "-m" in flags or "--multirun" in flags or "hydra.mode=MULTIRUN" in arguments
    if verb != "train" and not multirun and not set(flags) & SHOWING:
        arguments, multirun = ["-m", *arguments], True
    overrides = [a for a in arguments if not a.startswith("-")]
    session = HydraApp(verb, traceback=os.environ.get("HYDRA_FULL_ERROR") == "1", sweep=sweep)
    # Hydra 1.3 takes flags only before or after all overrides, and prints errors itself unless told not to
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        register_with_hydra(directory_resolvers(session.identify))
        sys.argv = ["lab", *order_arguments(arguments, multirun)]
        hydra_main(version_base="1.3", config_path="pkg://lab.conf", config_name="train")(session.task)()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ConfigError, Refused) as error:
        return print_error(error, session.traceback)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: flags that exclude each other
        return print_error(
            ConfigError(explain(error, overrides)).with_traceback(error.__traceback__), session.traceback
        )
    except BrokenPipeError:
        raise
    except OSError as error:  # Hydra makes directories before it calls the task
        said = f"cannot write {error.filename}: {error.strerror}; paths.outputs= or LAB_OUTPUTS= moves the outputs"
        return print_error(ConfigError(said).with_traceback(error.__traceback__), session.traceback)
    return session.code


SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "-sc", "--shell-completion"}


def order_arguments(arguments: list[str], multirun: bool) -> list[str]:
    """Flags, with their values, before the overrides, and those as Hydra can compose a sweep's first config with."""
    with_value = {
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
    }
    flags: list[str] = []
    overrides: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in with_value:
            flags += [argument, *([value] if (value := next(given, None)) is not None else [])]
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return [*flags, *(wrap_in_choices(overrides) if multirun else overrides)]


def remove_if_empty(directory: Path) -> None:
    """Remove a run directory that Hydra made before the run was refused, and what above it is ours and empty."""
    outputs = Path(OUTPUTS).resolve()
    here = directory.resolve()
    while here != Path.cwd() and here.is_dir() and not any(here.iterdir()):
        here.rmdir()
        here = here.parent
        if outputs not in here.parents:
            return
