"""The progress of a run on standard error: a bar on a terminal, plain lines elsewhere."""

import time
from contextlib import suppress
from typing import Any

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10  # seconds between two lines of progress where there is no terminal


class Console:
    """Shows the progress of a run.

    steps: number of optimizer steps of the whole run.  quiet: show nothing.
    """

    def __init__(self, steps: int, quiet: bool = False):
        self.steps, self.last_line_at, self.started_at = steps, 0.0, time.monotonic()
        self.values: dict[str, Any] = {}  # of the newest logged step
        self.rich = Rich(stderr=True, quiet=quiet, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=self.rich,
            disable=quiet or not self.rich.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("training", total=steps, values="")

    def __enter__(self) -> "Console":
        if not self.progress.disable:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.progress.disable:  # else rich before 14.3 would print an empty line
            self.progress.stop()

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Move the bar to a step, and show values beside it; without a terminal, print a line of them now and then."""
        self.values = values
        if not self.rich.is_terminal and time.monotonic() - max(self.last_line_at, self.started_at) >= LINE_EVERY:
            self.line(step, epoch, {})
        self.progress.update(self.bar, completed=step, description=f"epoch {epoch:.1f}", values=format_values(values))

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Print a line of scores, at most one per second before the last step."""
        now = time.monotonic()
        if step < self.steps and now - self.last_line_at < 1:
            return
        self.last_line_at = now
        seconds = time.monotonic() - self.started_at
        shown = format_values(self.values | values)
        self.note(f"step {step}/{self.steps}  epoch {epoch:.4g}  {shown}  {seconds:.1f} s")

    def note(self, text: str) -> None:
        """Print a line."""
        # rich raises SystemExit when the reader of standard error has closed it; the run must not stop for that
        with suppress(OSError, SystemExit):
            self.rich.print(text, markup=False, soft_wrap=True)


def format_values(values: dict[str, Any]) -> str:
    """Names and numbers on one line: `val/accuracy 0.9812  val/cross_entropy 0.0613`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
