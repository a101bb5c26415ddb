"""lab train: a Hydra app whose task is one run."""

import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.cli.show import OUTPUTS, table
from lab.config.app import experiment, explain, plain_config, register
from lab.config.errors import ConfigError
from lab.names import overall
from lab.record.files import Owned
from lab.study.job import FAILED, INTERRUPTED, Asked, Outcome, Refused, do, hparams
from lab.study.sweep import link, sweep_name, write_columns

USAGE, REFUSED, OWNED = 2, 3, 4


class Session:
    """What became of each run of this command.

    traceback: whether errors show theirs.  ended: the runs that started or were done.  hparams: of those, for the
    sweep's table.  unable: exit codes of runs that did not start.  sweep: the sweep's directory, if it is one.
    interrupted: the run that was.
    """

    def __init__(self, traceback: bool) -> None:
        self.traceback = traceback
        self.ended: list[Outcome] = []
        self.hparams: list[dict[str, Any]] = []
        self.unable: list[int] = []
        self.sweep: Path | None = None
        self.interrupted: Path | None = None

    def task(self, config: DictConfig) -> None:
        """Hydra's task function. In a sweep one bad run does not stop the others."""
        hydra = HydraConfig.get()
        directory = Path(hydra.runtime.output_dir)
        if Path.cwd() == Path(hydra.runtime.cwd):  # hydra.job.chdir=true changes it
            directory = relative(directory)
        if hydra.mode is RunMode.MULTIRUN:
            self.sweep = Path(hydra.sweep.dir)
            link(self.sweep, hydra.job.num, directory)
        try:
            asked = Asked(
                config=plain_config(config),
                source=container(config),
                hydra=container(hydra),
                experiment=experiment(hydra.runtime.choices),
                overrides=list(hydra.overrides.task),
                choices=dict(hydra.runtime.choices),
            )
            outcome = do(asked, directory)
        except (ConfigError, Refused, Owned) as error:
            self.forget(directory)
            self.unable.append(complain(error, self.traceback))
        except KeyboardInterrupt:
            self.forget(directory)
            self.interrupted = directory if directory.exists() else None
            raise
        except BrokenPipeError:  # who reads has gone
            raise
        except Exception:  # nobody foresaw it; the other runs of a sweep go on
            traceback.print_exc()
            self.forget(directory)
            self.unable.append(FAILED)
        else:
            self.ended.append(outcome)
            self.hparams.append(hparams(asked))
            show(outcome)

    def forget(self, directory: Path) -> None:
        """Leave nothing of a run that did not start."""
        remove_if_empty(directory)
        for path in self.sweep.iterdir() if self.sweep else ():
            if path.is_symlink() and not path.exists():
                path.unlink()

    def exit_code(self) -> int:
        if self.unable and not self.ended:
            return self.unable[0]
        return FAILED if self.unable or any(outcome.state != "done" for outcome in self.ended) else 0

    def close(self) -> None:
        if self.sweep is None:
            return
        if not self.ended:
            remove_unstarted(self.sweep)
            return
        metrics = dict.fromkeys(name for outcome in self.ended for name in outcome.results if overall(name))
        write_columns(self.sweep, self.hparams, sorted(metrics, key=lambda name: not name.startswith("test/")))
        print(table(self.sweep))
        states = Counter(outcome.state for outcome in self.ended) + Counter({"not started": len(self.unable)})
        print(", ".join(f"{number} {state}" for state, number in states.items()))
        print(f"{self.sweep} has the sweep; look at it with: tensorboard --logdir {self.sweep}")


def main(arguments: list[str]) -> int:
    """Run Hydra on the arguments. Gives the exit code."""
    flags = [a for a in arguments if a.startswith("-")]
    multirun = "-m" in flags or "--multirun" in flags or "hydra.mode=MULTIRUN" in arguments
    overrides = [a for a in arguments if not a.startswith("-")]
    if multirun:
        os.environ["LAB_SWEEP"] = sweep_name([o for o in overrides if not o.startswith("hydra.")])
    # Hydra 1.3 takes flags only before or after all overrides, and prints errors itself unless told not to
    session = Session(traceback=os.environ.get("HYDRA_FULL_ERROR") == "1")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["lab", *in_order(arguments)]
    try:
        register()
        hydra_main(version_base="1.3", config_path="pkg://lab.conf", config_name="train")(session.task)()
    except KeyboardInterrupt:
        session.close()
        said = "the same command goes on from its last checkpoint" if session.interrupted else "nothing had started"
        print(f"interrupted; {said}", file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        return complain(error, session.traceback)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: flags that exclude each other
        if multirun:
            remove_unstarted(Path(OUTPUTS, "sweeps", os.environ["LAB_SWEEP"]))
        return complain(ConfigError(explain(error, overrides)).with_traceback(error.__traceback__), session.traceback)
    except BrokenPipeError:
        raise
    except OSError as error:  # Hydra makes directories before it calls the task
        said = f"cannot write {error.filename}: {error.strerror}; paths.outputs= or LAB_OUTPUTS= moves the outputs"
        return complain(ConfigError(said).with_traceback(error.__traceback__), session.traceback)
    session.close()
    return session.exit_code()


def in_order(arguments: list[str]) -> list[str]:
    """Flags, with their values, before the overrides."""
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
    return [*flags, *overrides]


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


def container(config: Any) -> dict[str, Any]:
    """Plain values, interpolations left as they are, as YAML can hold them."""
    return OmegaConf.to_container(config, resolve=False, enum_to_str=True)  # type: ignore[return-value]


def remove_unstarted(sweep: Path) -> None:
    """Remove a sweep's directory of which nothing came but Hydra's own file."""
    if sweep.is_dir() and [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        remove_if_empty(sweep)


def show(outcome: Outcome) -> None:
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
