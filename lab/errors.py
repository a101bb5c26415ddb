"""The errors that lab raises by intent, and the exit codes of the command line.

LabError                   an error whose message tells the reader what to type next
├── ConfigError      2     a config, a command line or a file that cannot be used; nothing was started
├── Refused          3     done, it could cost somebody a result
├── RunInUse         4     another live process has the run
├── DamagedRun       2     a file of a run directory is not what a run leaves
├── CorruptCheckpoint 1    a checkpoint is not what was written
├── Diverged         1     a loss, a gradient or a score is not finite
└── Stopped          75    a run was asked to stop; its state is saved, and it can be resumed
"""

import sys
import traceback
from collections.abc import Sequence

EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_IN_USE, EXIT_STOPPED, EXIT_INTERRUPTED = 1, 2, 3, 4, 75, 130


class LabError(Exception):
    """exit_code: what the command line exits with where this error ends it."""

    exit_code = EXIT_FAILED

    @property
    def problems(self) -> Sequence[str]:
        """Each problem, on one line or a few."""
        return (str(self),)


class ConfigError(LabError):
    """Every problem found, each a line with the next thing to type. Nothing was started."""

    exit_code = EXIT_USAGE

    def __init__(self, *problems: str):
        super().__init__(*problems)

    @property
    def problems(self) -> Sequence[str]:
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.args)


class Refused(LabError):
    """Not done, because it could cost somebody a result."""

    exit_code = EXIT_REFUSED


class RunInUse(LabError):
    """Another live process has this run."""

    exit_code = EXIT_IN_USE


class DamagedRun(LabError):
    """A file of a run directory is not what a run leaves, or the directory is no run's."""

    exit_code = EXIT_USAGE


class CorruptCheckpoint(LabError):
    """A checkpoint that is not what was written."""


class Diverged(LabError):
    """A loss, a gradient or a score that is not finite."""


class Stopped(LabError):
    """A run was asked to stop; its state is saved, and it goes on from there."""

    exit_code = EXIT_STOPPED


def report_error(error: LabError, with_traceback: bool = False) -> int:
    """Print an error's problems to standard error. Gives the exit code that tells the same."""
    if with_traceback:
        traceback.print_exception(error)
    for problem in error.problems:
        print(f"lab: {problem}", file=sys.stderr)
    return error.exit_code
