"""What a person at a terminal sees of a run: a bar on a terminal, plain lines elsewhere."""

import time
from contextlib import suppress
from typing import Any

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Console:
    """Progress on standard error.  quiet: show nothing."""

    def __init__(self, steps: int, quiet: bool = False):
        self.steps, self.printed = steps, 0.0
        self.rich = Rich(stderr=True, quiet=quiet, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.rich,
            disable=quiet or not self.rich.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("training", total=steps, said="")

    def __enter__(self) -> "Console":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.progress.update(self.bar, completed=step, description=f"epoch {epoch:.1f}", said=format_values(values))

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """A line of scores, at most one a second before the last step."""
        now = time.monotonic()
        if step < self.steps and now - self.printed < 1:
            return
        self.printed = now
        self.note(f"step {step}/{self.steps}  epoch {epoch:.4g}  {format_values(values)}")

    def note(self, text: str) -> None:
        with suppress(OSError, SystemExit):  # as rich says that who reads has gone; the run goes on
            self.rich.print(text, markup=False, soft_wrap=True)


def format_values(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
