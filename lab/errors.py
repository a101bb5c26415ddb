"""The errors that lab raises on purpose, and the exit codes of the command line.

LabError                   an error whose message tells the reader what to type next
├── ConfigError      2     a config, a command line or a file that cannot be used; nothing was started
├── Refused          3     an action that could cost somebody a result; it was not done
├── RunInUse         4     another live process has the run
├── DamagedRun       2     a file of a run directory is not as a run writes it
├── CorruptCheckpoint 1    a checkpoint differs from the one that was written
├── Diverged         1     a loss, a gradient or a score is not finite
└── Stopped          75    a run was asked to stop; its state is saved, and it can be resumed
"""

import sys
import traceback
from collections.abc import Sequence

from lab.redact import redact_values
from lab.text import printable

NEWLINES = "\n\t"
EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_IN_USE, EXIT_NOT_REPRODUCED = 1, 2, 3, 4, 5
EXIT_STOPPED, EXIT_INTERRUPTED = 75, 130


class LabError(Exception):
    """exit_code: exit code of the command that this error ends."""

    exit_code = EXIT_FAILED

    @property
    def problems(self) -> Sequence[str]:
        """The problems, each a text of one line or a few."""
        return (str(self),)


class ConfigError(LabError):
    """A config, a command line or a file cannot be used. Nothing was started.

    problems: all that were found, each a line that says what to type next.  trace: tracebacks of errors in the
    project's own code; empty where there are none.
    """

    exit_code = EXIT_USAGE
    trace = ""

    def __init__(self, *problems: str):
        super().__init__(*problems)

    @property
    def problems(self) -> Sequence[str]:
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.args)


class Refused(LabError):
    """An action was not done, because it could cost somebody a result."""

    exit_code = EXIT_REFUSED


class RunInUse(LabError):
    """Another live process has this run."""

    exit_code = EXIT_IN_USE


class DamagedRun(LabError):
    """A file of a run directory is not as a run writes it, or the directory does not belong to a run."""

    exit_code = EXIT_USAGE


class CorruptCheckpoint(LabError):
    """A checkpoint differs from the one that was written."""


class Diverged(LabError):
    """A loss, a gradient or a score is not finite."""


class Stopped(LabError):
    """A run was asked to stop; its state is saved, and it can be resumed."""

    exit_code = EXIT_STOPPED


def report_error(error: LabError, with_traceback: bool = False) -> int:
    """Print an error's problems to standard error, without secrets. Gives its exit code.

    with_traceback: whether to print the traceback first.
    """
    if with_traceback:
        print(redact_values("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    for problem in error.problems:
        print(f"lab: {printable(redact_values(problem), keep=NEWLINES)}", file=sys.stderr)
    return error.exit_code
