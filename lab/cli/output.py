"""What the commands print."""

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.errors import EXIT_IN_USE, EXIT_REFUSED, EXIT_USAGE, ConfigError, Refused, RunInUse
from lab.execution.outcome import Outcome
from lab.metrics.names import is_overall


def print_missing(path: Path, what: str, hint: str) -> int:
    print(f"lab: {what} {path}; {hint}", file=sys.stderr)
    return 2


def format_cell(value: Any) -> str:
    return "-" if value is None else format_number(value) if isinstance(value, float) else str(value)


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def format_time(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def print_error(error: Exception, with_traceback: bool) -> int:
    """Say what is wrong on standard error; the exit code that says the same."""
    if with_traceback:
        traceback.print_exception(error)
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        print(f"lab: {problem}", file=sys.stderr)
    return {Refused: EXIT_REFUSED, RunInUse: EXIT_IN_USE}.get(type(error), EXIT_USAGE)


def relative_to_cwd(path: Path) -> Path:
    """As seen from the working directory, where it lies below: shorter to read and to type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_outcome(outcome: Outcome) -> None:
    if outcome.state == "interrupted":
        print(f"stopped: {outcome.error}", file=sys.stderr)
        print(f"{outcome.directory} holds the run; the same command goes on with it", file=sys.stderr)
        return
    if outcome.state != "done":
        print(f"{outcome.state}: {outcome.error}", file=sys.stderr)
        hint = "; a lower optimizer.lr or max_norm=1 may help" if outcome.state == "diverged" else ""
        print(f"{outcome.directory} holds the run, its traceback is in error.txt{hint}", file=sys.stderr)
        return
    shown = {name: value for name, value in outcome.results.items() if is_overall(name)}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value:.4f}")
    verb = "holds the run" if outcome.new else "holds the run, done before (again=true runs it anew)"
    print(f"{outcome.directory} {verb}; look at it with: tensorboard --logdir {outcome.directory}")
