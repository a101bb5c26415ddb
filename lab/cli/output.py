"""Text that several commands print."""

import sys
import time
from collections.abc import Sequence

from lab.errors import NEWLINES
from lab.execution.outcome import Outcome
from lab.metrics.names import is_overall
from lab.text import printable


def print_outcome(outcome: Outcome) -> None:
    """Print how a single run ended, and its directory."""
    directory = outcome.directory
    if outcome.state == "interrupted":
        print(f"stopped: {outcome.error}", file=sys.stderr)
        print(f"{directory} holds the run; the same command goes on with it", file=sys.stderr)
        return
    if outcome.state != "done":
        print(f"{outcome.state}: {printable(str(outcome.error), keep=NEWLINES)}", file=sys.stderr)
        hint = "; a lower optimizer.lr or max_norm=1 may help" if outcome.state == "diverged" else ""
        print(f"{directory} holds the run, its traceback is in error.txt{hint}", file=sys.stderr)
        return
    scores = {name: value for name, value in outcome.results.items() if is_overall(name)}
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.4f}")
    verb = "holds the run" if outcome.new else "holds the run, done before (again=true runs it anew)"
    print(f"{directory} {verb}; look at it with: tensorboard --logdir {directory}")


def format_time(seconds: float | None) -> str:
    """Seconds since the epoch as local date and time."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """The cells in aligned columns, as text that a terminal shows as it is."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)
