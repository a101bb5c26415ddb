"""Text that several commands print."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import NEWLINES
from lab.ledger.saved_run import SavedRun
from lab.metrics.names import is_overall, split_of, with_split
from lab.text import printable

if TYPE_CHECKING:
    from lab.execution.outcome import Outcome

MOST_FINAL_SCORES = 6  # scores that the end of a run prints; its directory has all


def print_outcome(outcome: "Outcome") -> None:
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
    scores = {name: outcome.results[name] for name in printed_scores(outcome)}
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.4f}")
    verb = "holds the run and all its scores" if outcome.new else "holds the run, done before (again=true runs it anew)"
    print(f"{directory} {verb}{tensorboard_hint(directory, [directory])}")


def tensorboard_hint(logdir: Path, runs: Sequence[Path]) -> str:
    """How to look at the runs in TensorBoard; empty where they have no events, as with logger=none."""
    if not any(next(run.glob("events.out.tfevents.*"), None) for run in runs):
        return ""
    return f"; look at it with: tensorboard --logdir {shlex.quote(str(logdir))}"


def printed_scores(outcome: "Outcome") -> list[str]:
    """The names of the scores to print: those on the test set, the monitored one first, then the monitored one on the
    validation set and its gap, MOST_FINAL_SCORES in all. Without a test set, those on the validation set."""
    names = [name for name in outcome.results if is_overall(name) and split_of(name) != "hardware"]
    monitored = str(SavedRun(outcome.directory).monitor.get("name") or "")
    first = [with_split(monitored, split) for split in ("test", split_of(monitored), "gap")] if monitored else []
    split = "test" if any(split_of(name) == "test" for name in names) else "val"
    shown = [*first[:1], *(name for name in names if split_of(name) == split), *first[1:]]
    shown = [name for name in dict.fromkeys(shown) if name in names] or names
    first = [name for name in first if name in shown]
    others = [name for name in shown if name not in first]
    kept = [*first, *others[: max(0, MOST_FINAL_SCORES - len(first))]]
    return [name for name in shown if name in kept]


def format_time(seconds: float | None) -> str:
    """Seconds since the epoch as local date and time."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """The cells in aligned columns, as text that a terminal shows as it is."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)
