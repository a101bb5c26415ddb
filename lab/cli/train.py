"""lab train, lab plan, lab check: a Hydra app whose task is one run, and whose sweeps are planned."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab.cli.carry import FAILED, INTERRUPTED, REFUSED, STOPPED, USAGE
from lab.cli.show import OUTPUTS
from lab.config.app import explain, register
from lab.config.asked import Asked
from lab.config.axes import one_choice
from lab.config.compose import asked_of, places
from lab.config.errors import ConfigError
from lab.config.identity import Identifier, Identity
from lab.config.settings import Policy
from lab.names import overall
from lab.record.files import Owned
from lab.study.job import Outcome, Refused, Terms, do
from lab.study.pulse import Pulse

if TYPE_CHECKING:
    from lab.cli.sweep import Sweeping

OWNED = 4
Swept = Callable[["Sweeping", Sequence[str]], int]


class Session:
    """One command.

    verb: `train`, `plan`, `check` or `rank`.  traceback: whether errors show theirs.  sweep: what is done with a
    sweep's arguments instead of its runs.  code: to exit with.  identify: gives identities, each source and file read
    once.
    """

    def __init__(self, verb: str, traceback: bool, sweep: "Swept | None" = None) -> None:
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
            directory = relative(directory)
        try:
            asked = asked_of(config, hydra)
            self.code = one_run(asked, self.identify(asked.config), directory) or self.code
        except (ConfigError, Refused, Owned) as error:
            remove_if_empty(directory)
            self.code = complain(error, self.traceback)
        except KeyboardInterrupt:
            remove_if_empty(directory)
            raise
        except BrokenPipeError:  # who reads has gone
            raise
        except Exception:  # nobody foresaw it; under another sweeper the other runs go on
            traceback.print_exc()
            remove_if_empty(directory)
            self.code = FAILED


def one_run(asked: Asked, identity: Identity, directory: Path) -> int:
    """Do a run in this process and show how it ended. The exit code."""
    try:
        terms = Policy.of(asked.config)
    except (LookupError, TypeError, ValueError):  # the check in `do` says what is wrong
        pulse = Pulse()
    else:
        pulse = Pulse.until(terms.time_limit, terms.step_timeout)
    with pulse.signals(keyboard=True):
        outcome = do(asked, identity, directory, Terms(pulse))
    show(outcome)
    stopped = INTERRUPTED if pulse.reason == "SIGINT" else STOPPED
    return {"done": 0, "interrupted": stopped}.get(outcome.state, FAILED)


def main(arguments: list[str], verb: str = "train", sweep: "Swept | None" = None) -> int:
    """Run Hydra on the arguments. Gives the exit code.  verb, sweep: see Session."""
    arguments = [quoted(argument) for argument in arguments]
    flags = [a for a in arguments if a.startswith("-")]
    multirun = "-m" in flags or "--multirun" in flags or "hydra.mode=MULTIRUN" in arguments
    if verb != "train" and not multirun and not set(flags) & SHOWING:
        arguments, multirun = ["-m", *arguments], True
    overrides = [a for a in arguments if not a.startswith("-")]
    session = Session(verb, traceback=os.environ.get("HYDRA_FULL_ERROR") == "1", sweep=sweep)
    # Hydra 1.3 takes flags only before or after all overrides, and prints errors itself unless told not to
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        register(places(session.identify))
        sys.argv = ["lab", *in_order(arguments, multirun)]
        hydra_main(version_base="1.3", config_path="pkg://lab.conf", config_name="train")(session.task)()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        return INTERRUPTED
    except (ConfigError, Refused) as error:
        return complain(error, session.traceback)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: flags that exclude each other
        return complain(ConfigError(explain(error, overrides)).with_traceback(error.__traceback__), session.traceback)
    except BrokenPipeError:
        raise
    except OSError as error:  # Hydra makes directories before it calls the task
        said = f"cannot write {error.filename}: {error.strerror}; paths.outputs= or LAB_OUTPUTS= moves the outputs"
        return complain(ConfigError(said).with_traceback(error.__traceback__), session.traceback)
    return session.code


def plan(arguments: list[str]) -> int:
    return main(arguments, "plan")


SHOWING = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "-sc", "--shell-completion"}


def quoted(argument: str) -> str:
    """A path that is there is one value to Hydra too, though it have `=` or `,` in its name, as a run's does."""
    key, _, value = argument.partition("=")
    special = re.search("[=,]", value) and not re.search("[\"'\\\\]", value)
    return f'{key}="{value}"' if special and Path(value).exists() else argument


def in_order(arguments: list[str], multirun: bool) -> list[str]:
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
    return [*flags, *(one_choice(overrides) if multirun else overrides)]


def complain(error: Exception, with_traceback: bool) -> int:
    """Say what is wrong on standard error; the exit code that says the same."""
    if with_traceback:
        traceback.print_exception(error)
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        print(f"lab: {problem}", file=sys.stderr)
    return {Refused: REFUSED, Owned: OWNED}.get(type(error), USAGE)


def relative(path: Path) -> Path:
    """As seen from the working directory, where it lies below: shorter to read and to type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def remove_if_empty(directory: Path) -> None:
    """Remove a run directory that Hydra made before the run was refused, and what above it is ours and empty."""
    outputs = Path(OUTPUTS).resolve()
    here = directory.resolve()
    while here != Path.cwd() and here.is_dir() and not any(here.iterdir()):
        here.rmdir()
        here = here.parent
        if outputs not in here.parents:
            return


def show(outcome: Outcome) -> None:
    if outcome.state == "interrupted":
        print(f"stopped: {outcome.error}", file=sys.stderr)
        print(f"{outcome.directory} holds the run; the same command goes on with it", file=sys.stderr)
        return
    if outcome.state != "done":
        print(f"{outcome.state}: {outcome.error}", file=sys.stderr)
        hint = "; a lower optimizer.lr or max_norm=1 may help" if outcome.state == "diverged" else ""
        print(f"{outcome.directory} holds the run, its traceback is in error.txt{hint}", file=sys.stderr)
        return
    shown = {name: value for name, value in outcome.results.items() if overall(name)}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value:.4f}")
    verb = "holds the run" if outcome.new else "holds the run, done before (again=true runs it anew)"
    print(f"{outcome.directory} {verb}; look at it with: tensorboard --logdir {outcome.directory}")
